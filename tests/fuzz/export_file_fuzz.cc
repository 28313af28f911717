// .export files: whatever is in one, the answer is settings that can be put
// into a unit and come back as they were, or a line of complaint.
//
// An input is the content of a file.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"
#include "fuzz/simulation.h"
#include "generator/export_definition.h"
#include "generator/export_file.h"
#include "generator/unit_text.h"

namespace {

using nbdfuzz::Require;
using nbdinetd::ExportSetting;

constexpr char kPath[] = "a.export";

bool IsOneLine(std::string_view text) {
  return text.find_first_of(std::string_view("\n\0", 2)) ==
         std::string_view::npos;
}

// Puts one character in place of two, and finds none alone.
std::string WithoutDoubles(const std::string& text, char doubled) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    result.push_back(text[i]);
    if (text[i] != doubled) continue;
    ++i;
    Require(i < text.size() && text[i] == doubled, "it means something else");
  }
  return result;
}

// What systemd makes of a word in ExecStart= or in a list of paths, in steps of
// our own: quotes and backslashes, specifiers, variables.
std::string Decoded(std::string_view word, bool is_command) {
  Require(IsOneLine(word) && !word.empty(), "a word ends the line");
  std::string text;
  if (word[0] != '"') {
    Require(word.find_first_of(" \t\"'\\%$;#") == std::string_view::npos,
            "a word needs quotes");
    return std::string(word);
  }
  Require(word.size() >= 2 && word.back() == '"', "no end of a quoted word");
  word = word.substr(1, word.size() - 2);
  for (size_t i = 0; i < word.size(); ++i) {
    Require(word[i] != '"', "the end of a word is inside of it");
    if (word[i] != '\\') {
      text.push_back(word[i]);
      continue;
    }
    Require(++i < word.size(), "a backslash takes the end of a word");
    if (word[i] == 'x') {
      Require(is_command && i + 2 < word.size(), "an escape is cut");
      text.push_back(static_cast<char>(
          std::stoi(std::string(word.substr(i + 1, 2)), nullptr, 16)));
      i += 2;
    } else {
      Require(word[i] == '\\' || word[i] == '"', "an escape of nothing");
      text.push_back(word[i]);
    }
  }
  text = WithoutDoubles(text, '%');
  return is_command ? WithoutDoubles(text, '$') : text;
}

void CheckComplaint(const std::string& message) {
  Require(message.substr(0, sizeof(kPath) - 1) == kPath, "no file is named");
  Require(IsOneLine(message), "a complaint of several lines");
  Require(nbdinetd::IsValidUtf8(message), "a complaint nobody can read");
}

void CheckSetting(const ExportSetting& setting) {
  Require(setting.line > 0 && setting.path == kPath, "a setting without place");
  Require(!setting.section.empty() && !setting.key.empty(), "no key");
  Require(setting.key.find('=') == std::string::npos, "a value in a key");
  Require(IsOneLine(setting.key) && IsOneLine(setting.value),
          "a setting of several lines");
  // It goes into a unit as it is: nothing may continue there.
  size_t backslashes = 0;
  while (backslashes < setting.value.size() &&
         setting.value[setting.value.size() - 1 - backslashes] == '\\') {
    ++backslashes;
  }
  Require(backslashes % 2 == 0, "a value takes the next line");
}

void CheckDefinition(const nbdinetd::ExportDefinition& definition) {
  Require(definition.path[0] == '/' && definition.path.back() != '\\',
          "a path that a unit can't have");
  Require(Decoded(nbdinetd::CommandWord(definition.path), true) ==
                  definition.path &&
              Decoded(nbdinetd::PathWord(definition.path), false) ==
                  definition.path &&
              Decoded(nbdinetd::BindPathWord(definition.path), false) ==
                  definition.path,
          "a path is changed");
  Require(WithoutDoubles(nbdinetd::PlainValue(definition.description), '%') ==
              definition.description,
          "a description is changed");
  for (const std::string& argument : definition.arguments) {
    Require(argument.substr(0, 2) == "--", "an argument that is no option");
    Require(Decoded(nbdinetd::CommandWord(argument), true) == argument,
            "an argument is changed");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  nbdinetd::ExportFile file;
  file.sources = {"a", kPath, {}};
  const absl::Status parsed = nbdinetd::ParseExportText(
      {text.data(), text.size()}, kPath, file.settings);
  if (!parsed.ok()) CheckComplaint(std::string(parsed.message()));
  for (const ExportSetting& setting : file.settings) CheckSetting(setting);
  for (const auto scope :
       {nbdinetd::ManagerScope::kSystem, nbdinetd::ManagerScope::kUser}) {
    const auto definition = nbdinetd::DefineExport(file, scope);
    if (definition.ok()) {
      CheckDefinition(*definition);
    } else {
      CheckComplaint(std::string(definition.status().message()));
    }
  }
  return 0;
}
