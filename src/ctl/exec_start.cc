#include "ctl/exec_start.h"

#include <cstddef>
#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/option_table.h"

namespace nbdinetd::ctl {
namespace {

bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
}

std::string ValueOf(const std::string& name, const Environment& environment) {
  const auto found = environment.find(name);
  return found == environment.end() ? "" : found->second;
}

// The name in a word that is only "$NAME"; empty for other words.
std::string LoneVariable(absl::string_view word) {
  if (!absl::ConsumePrefix(&word, "$") || word.empty()) return "";
  for (const char c : word) {
    if (!IsNameCharacter(c)) return "";
  }
  return std::string(word);
}

// Replaces "${NAME}", and "$$" by "$".
std::string ExpandedWord(absl::string_view word,
                         const Environment& environment) {
  std::string result;
  while (!word.empty()) {
    const size_t end = word.find('}');
    if (absl::StartsWith(word, "${") && end != absl::string_view::npos) {
      result += ValueOf(std::string(word.substr(2, end - 2)), environment);
      word.remove_prefix(end + 1);
      continue;
    }
    result += word[0];
    word.remove_prefix(absl::StartsWith(word, "$$") ? 2 : 1);
  }
  return result;
}

// A value of an environment file: quotes group and disappear, and a backslash
// takes the next character as it is, except between single quotes.
std::string Unquoted(absl::string_view text) {
  std::string value;
  char quote = '\0';
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\' && quote != '\'' && i + 1 < text.size()) {
      value += text[++i];
    } else if (quote == '\0' && (c == '"' || c == '\'')) {
      quote = c;
    } else if (c == quote && quote != '\0') {
      quote = '\0';
    } else {
      value += c;
    }
  }
  return value;
}

// The row of "--NAME", which getopt_long() takes for a unique beginning of a
// name, too; nullptr for none.
const OptionRow* RowOf(absl::string_view name) {
  const OptionRow* found = nullptr;
  for (const OptionRow& row : OptionTable()) {
    for (const char* spelling : {row.name, row.alias}) {
      if (spelling == nullptr) continue;
      if (name == spelling) return &row;
      if (absl::StartsWith(spelling, name)) found = &row;
    }
  }
  return found;
}

const OptionRow* RowOf(char letter) {
  for (const OptionRow& row : OptionTable()) {
    if (row.letter == letter && letter != '\0') return &row;
  }
  return nullptr;
}

bool NeedsArgument(const OptionRow* row) {
  return row != nullptr && row->argument[0] == '=';
}

// An option on the command line.
struct Option {
  absl::string_view name;
  std::string argument;
};

// Takes "--name", "--name=argument" or "--name argument" at `*i`.
Option TakeLong(absl::Span<const std::string> arguments, size_t* i) {
  absl::string_view word = arguments[*i];
  word.remove_prefix(2);
  const size_t equals = word.find('=');
  const OptionRow* row = RowOf(word.substr(0, equals));
  Option option;
  if (row != nullptr) option.name = row->name;
  if (equals != absl::string_view::npos) {
    option.argument = std::string(word.substr(equals + 1));
  } else if (NeedsArgument(row) && *i + 1 < arguments.size()) {
    option.argument = arguments[++*i];
  }
  return option;
}

// Skips bundled letters at `*i`, and the argument of the last.
void SkipLetters(absl::Span<const std::string> arguments, size_t* i) {
  const absl::string_view word = arguments[*i];
  for (size_t k = 1; k < word.size(); ++k) {
    if (!NeedsArgument(RowOf(word[k]))) continue;
    if (k + 1 == word.size()) ++*i;
    return;
  }
}

}  // namespace

bool RunsNbdinetd(absl::Span<const std::string> command) {
  for (const std::string& word : command.subspan(0, 1)) {
    const size_t slash = word.rfind('/');
    if (word.substr(slash == std::string::npos ? 0 : slash + 1) == "nbdinetd") {
      return true;
    }
  }
  return false;
}

bool ReadEnvironmentFile(const std::string& path, Environment& environment) {
  std::ifstream file(path);
  if (!file.is_open()) return false;
  std::string text{std::istreambuf_iterator<char>(file),
                   std::istreambuf_iterator<char>()};
  // A backslash at the end of a line continues it.
  for (size_t at; (at = text.find("\\\n")) != std::string::npos;) {
    text.erase(at, 2);
  }
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    const size_t equals = line.find('=');
    if (line.empty() || line[0] == '#' || line[0] == ';' ||
        equals == absl::string_view::npos) {
      continue;
    }
    environment[std::string(
        absl::StripAsciiWhitespace(line.substr(0, equals)))] =
        Unquoted(absl::StripAsciiWhitespace(line.substr(equals + 1)));
  }
  return true;
}

std::vector<std::string> Expanded(absl::Span<const std::string> arguments,
                                  const Environment& environment) {
  std::vector<std::string> result;
  for (const std::string& word : arguments) {
    const std::string name = LoneVariable(word);
    if (name.empty()) {
      result.push_back(ExpandedWord(word, environment));
      continue;
    }
    const std::string value = ValueOf(name, environment);
    for (const absl::string_view part :
         absl::StrSplit(value, absl::ByAnyChar(" \t\n"), absl::SkipEmpty())) {
      result.push_back(Unquoted(part));
    }
  }
  return result;
}

bool HasVariable(absl::Span<const std::string> arguments) {
  for (const std::string& word : arguments) {
    if (!LoneVariable(word).empty() || absl::StrContains(word, "${")) {
      return true;
    }
  }
  return false;
}

Served ServedBy(absl::Span<const std::string> arguments) {
  Served served;
  std::string file;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--") {
      if (i + 1 < arguments.size()) file = arguments.back();
      break;
    }
    if (absl::StartsWith(word, "--")) {
      const Option option = TakeLong(arguments, &i);
      if (option.name == "directory") served.directory = option.argument;
    } else if (word.size() > 1 && word[0] == '-') {
      SkipLetters(arguments, &i);
    } else {
      file = word;
    }
  }
  absl::string_view path = file;
  absl::ConsumePrefix(&path, "file=");
  served.file = std::string(path);
  return served;
}

}  // namespace nbdinetd::ctl
