// The rows of the table of options, held against each other and against the
// manual page.

#include "cli/option_table.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "generator/export_definition.h"

namespace nbdinetd {
namespace {

// Options as they are spelled, each with what follows it: "-e ARG",
// "--exclusive [ARG]", "--check".
using Spellings = std::multiset<std::string>;

std::string Spelling(const std::string& option, const std::string& argument) {
  return argument.empty() ? option : option + " " + argument;
}

Spellings SpellingsOf(absl::Span<const OptionRow> table) {
  Spellings spellings;
  for (const OptionRow& row : table) {
    const std::string argument = row.argument[0] == '\0'  ? ""
                                 : row.argument[0] == '[' ? "[ARG]"
                                                          : "ARG";
    if (row.letter != '\0') {
      spellings.insert(Spelling({'-', row.letter}, argument));
    }
    for (const char* name : {row.name, row.alias}) {
      if (name == nullptr) continue;
      spellings.insert(Spelling(std::string("--") + name, argument));
    }
  }
  return spellings;
}

std::vector<std::string> Split(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// What the head of a paragraph says, such as ".It Fl e Ar NAME , Fl Fl
// exportname Ns = Ns Ar NAME" (mdoc(7)).
Spellings SpellingsOfHead(const std::string& head) {
  Spellings spellings;
  std::string option, argument;
  const auto end = [&] {
    if (!option.empty()) spellings.insert(Spelling(option, argument));
    option.clear();
    argument.clear();
  };
  const std::vector<std::string> words = Split(head);
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i] == ",") {
      end();
    } else if (words[i] == "Fl") {
      option += "-";
    } else if (words[i] == "Op") {
      argument = "[ARG]";
    } else if ((words[i] == "Ar" || words[i] == "Cm") && argument.empty()) {
      argument = "ARG";
    } else if (words[i - 1] == "Fl") {
      option += words[i];
    }
  }
  end();
  return spellings;
}

// The options that have a paragraph in the section OPTIONS of a manual page. A
// head without a paragraph counts for nothing.
Spellings SpellingsOfManual(std::istream& manual) {
  Spellings spellings;
  std::string section, head;
  for (std::string line; std::getline(manual, line);) {
    if (line.rfind(".Sh ", 0) == 0) section = line.substr(4);
    if (section != "OPTIONS") continue;
    if (line.rfind(".It Fl ", 0) == 0) {
      head = line;
    } else if (!head.empty()) {
      if (line.rfind(".El", 0) != 0) spellings.merge(SpellingsOfHead(head));
      head.clear();
    }
  }
  return spellings;
}

TEST(OptionTable, TheManualHasAParagraphForEachOptionAndForNoOther) {
  const char* top = std::getenv("NBDINETD_SRCDIR");
  ASSERT_NE(top, nullptr);
  std::ifstream manual(std::string(top) + "/man/nbdinetd.8.in");
  ASSERT_TRUE(manual.is_open());
  EXPECT_EQ(SpellingsOfManual(manual), SpellingsOf(OptionTable()));
}

TEST(OptionTable, AManualIsReadAsItIsMeant) {
  std::istringstream manual(
      ".Sh SYNOPSIS\n.It Fl a\nno option\n"
      ".Sh OPTIONS\n.Bl -tag\n"
      ".It Fl r , Fl Fl readonly\nRead-only.\n"
      ".It Fl e Ar NAME , Fl Fl exportname Ns = Ns Ar NAME\nThe name.\n"
      ".It Fl Fl exclusive Ns Op = Ns Cm refuse | wait\nAlone.\n"
      ".It Fl Fl tls Ns = Ns Cm off | on\n.Xr ssl 3\n"
      ".It Fl Fl allow Ns = Ns Ar WHO , Fl Fl deny Ns = Ns Ar WHO\nWho.\n"
      ".It Fl Fl bare\n.It Fl Fl last\n.El\n"
      ".Sh ENVIRONMENT\n.It Fl b\nno option\n");
  EXPECT_EQ(SpellingsOfManual(manual),
            (Spellings{"-r", "--readonly", "-e ARG", "--exportname ARG",
                       "--exclusive [ARG]", "--tls ARG", "--allow ARG",
                       "--deny ARG"}));
}

// The keys that have a paragraph in a section of nbdinetd.export(5), such as
// ".It Li User= Ns Ar USER , Li Group= Ns Ar GROUP".
std::multiset<std::string> KeysOfManual(const std::string& wanted) {
  std::ifstream manual(std::string(std::getenv("NBDINETD_SRCDIR")) +
                       "/man/nbdinetd.export.5.in");
  EXPECT_TRUE(manual.is_open());
  std::multiset<std::string> keys;
  std::string section;
  for (std::string line; std::getline(manual, line);) {
    if (line.rfind(".Sh ", 0) == 0) section = line.substr(4);
    if (section != wanted || line.rfind(".It Li ", 0) != 0) continue;
    const std::vector<std::string> words = Split(line);
    for (size_t i = 0; i + 1 < words.size(); ++i) {
      if (words[i] == "Li") {
        keys.insert(words[i + 1].substr(0, words[i + 1].find('=')));
      }
    }
  }
  return keys;
}

TEST(OptionTable, EachOptionHasAKeyInTheManualOrAReasonForNone) {
  std::multiset<std::string> keys;
  for (const OptionRow& row : OptionTable()) {
    EXPECT_NE(row.key == nullptr, row.no_key == nullptr) << row.name;
    if (row.key != nullptr) keys.insert(row.key);
    const bool takes_none = row.argument[0] == '\0';
    if (row.key == nullptr) continue;
    EXPECT_EQ(row.key_kind == KeyKind::kBoolean, takes_none) << row.name;
  }
  EXPECT_EQ(KeysOfManual("OPTIONS IN [EXPORT]"), keys);
  EXPECT_EQ(std::set<std::string>(keys.begin(), keys.end()).size(),
            keys.size());
}

TEST(OptionTable, EachKeyOfTheUnitsIsInTheManual) {
  std::multiset<std::string> keys(UnitKeys().begin(), UnitKeys().end());
  EXPECT_EQ(KeysOfManual("OTHER KEYS IN [EXPORT]"), keys);
}

TEST(OptionTable, EachSpellingIsThereOnce) {
  const Spellings spellings = SpellingsOf(OptionTable());
  std::set<std::string> options;
  for (const std::string& spelling : spellings) {
    EXPECT_TRUE(options.insert(Split(spelling)[0]).second) << spelling;
  }
}

TEST(OptionTable, EachRowIsWhole) {
  std::set<std::string> names = {"FILE"};
  for (const OptionRow& row : OptionTable()) names.insert(row.name);
  for (const OptionRow& row : OptionTable()) {
    EXPECT_NE(std::string(row.help), "") << row.name;
    EXPECT_NE(row.set, nullptr) << row.name;
    // There is one exactly where it can be needed.
    EXPECT_EQ(row.argument[0] == '[', row.implied_argument[0] != '\0')
        << row.name;
    for (const char* excluded : row.excludes) {
      if (excluded == nullptr) continue;
      EXPECT_EQ(names.count(excluded), 1u) << row.name << ": " << excluded;
    }
  }
}

}  // namespace
}  // namespace nbdinetd
