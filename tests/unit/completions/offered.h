// What a file of completions offers, read out of its text. Threads: one.
#ifndef NBDINETD_TESTS_UNIT_COMPLETIONS_OFFERED_H_
#define NBDINETD_TESTS_UNIT_COMPLETIONS_OFFERED_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "completions/template.h"

namespace nbdinetd {

using Words = std::set<std::string>;

// The template of a shell: "bash", "zsh" or "fish".
inline std::string ReadTemplate(const std::string& shell) {
  const char* top = std::getenv("NBDINETD_SRCDIR");
  EXPECT_NE(top, nullptr);
  std::ifstream file(
      absl::StrCat(top == nullptr ? "." : top, "/completions/", shell, ".in"));
  EXPECT_TRUE(file.is_open()) << shell;
  return {std::istreambuf_iterator<char>(file),
          std::istreambuf_iterator<char>()};
}

inline std::string Filled(const std::string& shell,
                          const CompletedCommand& command, const Parts& parts) {
  const absl::StatusOr<std::string> text =
      FillTemplate(ReadTemplate(shell), command, parts);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *text : "";
}

// All texts that match the first group of the pattern.
inline Words Found(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  Words words;
  for (std::sregex_iterator match(text.begin(), text.end(), regex), end;
       match != end; ++match) {
    words.insert((*match)[1].str());
  }
  return words;
}

// The body of a function "NAME()\n{...\n}" of bash's.
inline std::string BodyOf(const std::string& text, const std::string& name) {
  const size_t start = text.find(absl::StrCat("\n", name, "()\n"));
  EXPECT_NE(start, std::string::npos) << name;
  if (start == std::string::npos) return "";
  return text.substr(start, text.find("\n}\n", start) - start);
}

// The words that are offered in each shell's file: options with their dashes,
// and verbs.
inline Words OfferedByBash(const CompletedCommand& command) {
  const std::string text = Filled("bash", command, BashParts(command));
  const std::string name = absl::StrCat("_", command.name);
  std::string bodies = BodyOf(text, name + "_options");
  if (!command.verbs.empty()) bodies += BodyOf(text, name + "_verbs");
  Words words;
  for (const std::string& line : Found(bodies, name + "_add ([^\n]*)")) {
    for (absl::string_view word : absl::StrSplit(line, ' ')) {
      absl::ConsumeSuffix(&word, "=");
      words.emplace(word);
    }
  }
  return words;
}

inline Words OfferedByZsh(const CompletedCommand& command) {
  const std::string text = Filled("zsh", command, ZshParts(command));
  Words words = Found(text, "'(?:\\([^)]*\\))?\\*?(--?[a-zA-Z0-9-]+)[+=-]*\\[");
  words.merge(Found(text, "\n    '([a-z]+):"));
  return words;
}

inline Words OfferedByFish(const CompletedCommand& command) {
  const std::string text = Filled("fish", command, FishParts(command));
  Words words = Found(text, "_lacks_verb' -a ([a-z]+)");
  const std::string start =
      "\ncomplete -c " + command.name + "(?: -n '[^']*')?(?: -s [a-zA-Z0-9])?";
  for (const std::string& name : Found(text, start + " -l ([a-z0-9-]+)")) {
    words.insert("--" + name);
  }
  for (const std::string& letter :
       Found(text, "\ncomplete -c [^\n]* -s ([a-zA-Z0-9]) -l ")) {
    words.insert("-" + letter);
  }
  return words;
}

// What the command's table says, without other names of options.
inline Words OfTable(const CompletedCommand& command) {
  Words words;
  for (const CompletedOption& option : command.options) {
    words.insert("--" + option.name);
    if (option.letter != '\0') words.insert({'-', option.letter});
  }
  for (const CompletedVerb& verb : command.verbs) words.insert(verb.name);
  return words;
}

// Holds all shells to the table.
inline void ExpectEachShellOffersTheTable(const CompletedCommand& command) {
  const Words wanted = OfTable(command);
  EXPECT_EQ(OfferedByBash(command), wanted);
  EXPECT_EQ(OfferedByZsh(command), wanted);
  EXPECT_EQ(OfferedByFish(command), wanted);
}

}  // namespace nbdinetd

#endif  // NBDINETD_TESTS_UNIT_COMPLETIONS_OFFERED_H_
