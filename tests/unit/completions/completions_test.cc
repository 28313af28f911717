// The forms of arguments, templates, and the completions of nbdinetd held to
// its table of options. tests/system/completions_test.py runs the shells.

#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/option_table.h"
#include "completions/forms.h"
#include "completions/of_tables.h"
#include "completions/template.h"
#include "unit/completions/offered.h"

namespace nbdinetd {
namespace {

std::vector<Form> FormsOf(absl::string_view text) {
  const absl::StatusOr<std::vector<Form>> forms = ParseForms(text);
  EXPECT_TRUE(forms.ok()) << forms.status();
  return forms.ok() ? *forms : std::vector<Form>();
}

TEST(Forms, AreWordsAndPlaceholders) {
  EXPECT_EQ(FormsOf("off|on"), (std::vector<Form>{{"off", ""}, {"on", ""}}));
  EXPECT_EQ(FormsOf("memory|DIR"),
            (std::vector<Form>{{"memory", ""}, {"", "DIR"}}));
  EXPECT_EQ(FormsOf("uid:USER|unix:"),
            (std::vector<Form>{{"uid:", "USER"}, {"unix:", ""}}));
  EXPECT_EQ(FormsOf("BYTES[:BURST]"), (std::vector<Form>{{"", "BYTES"}}));
  EXPECT_EQ(FormsOf("-|PATH"), (std::vector<Form>{{"-", ""}, {"", "PATH"}}));
}

TEST(Forms, HoldNothingThatAShellInterprets) {
  for (const char* text : {"$(x)", "a b", "a;b", "a'", "*", "~", "[USER@]"}) {
    const auto forms = ParseForms(text);
    ASSERT_FALSE(forms.ok()) << text;
    EXPECT_TRUE(absl::StrContains(forms.status().message(), "may interpret"));
  }
  EXPECT_TRUE(absl::StrContains(ParseForms("NONSENSE").status().message(),
                                "can complete NONSENSE"));
}

CompletedCommand Command() {
  CompletedCommand command = {"x", {}, {{"go", "go on"}}, {}};
  for (const CommonRow& row :
       {CommonRow{'p', "port", "=PORT", "", "a \"port\"", false},
        CommonRow{'q', "quiet", "", "", "it's\n[quiet]", false},
        CommonRow{'\0', "who", "[=WHO]", "any|uid:USER", "who", true}}) {
    absl::StatusOr<CompletedOption> option = OptionOf(row);
    EXPECT_TRUE(option.ok()) << option.status();
    command.options.push_back(*option);
  }
  EXPECT_TRUE(
      AddOperands("go", "[there|back HOST|from FILE DIR]", command).ok());
  return command;
}

TEST(CompletedCommand, HasOperandsAtTheirPlaces) {
  const CompletedCommand command = Command();
  ASSERT_EQ(command.operands.size(), 4u);
  EXPECT_EQ(command.operands[0].forms, FormsOf("there|back|from"));
  EXPECT_EQ(command.operands[1].first, "back");
  EXPECT_EQ(command.operands[1].forms, FormsOf("HOST"));
  EXPECT_EQ(command.operands[2].first, "from");
  EXPECT_EQ(command.operands[2].place, 1u);
  EXPECT_EQ(command.operands[3].place, 2u);
  EXPECT_EQ(command.operands[3].forms, FormsOf("DIR"));
}

TEST(CompletedCommand, KnowsWhichWordsWaitForAnArgument) {
  const std::regex waiting(WaitingWords(Command()));
  for (const char* word : {"-p", "-qp", "--port"}) {
    EXPECT_TRUE(std::regex_match(word, waiting)) << word;
  }
  for (const char* word : {"-q", "-pq", "--port=1", "--who", "p", "--p"}) {
    EXPECT_FALSE(std::regex_match(word, waiting)) << word;
  }
}

TEST(Template, TakesPartsAndLeavesOutWhatACommandDoesNotNeed) {
  const CompletedCommand command = Command();
  const absl::StatusOr<std::string> text = FillTemplate(
      "name @command@\n\n#: USER EXPORT\nuser of @command@\n\n"
      "#: EXPORT\nexport\n\n#: VERBS\n@part@\nend\n",
      command, {{"part", "1\n2\n"}});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "name x\n\nuser of x\n\n1\n2\nend\n");
  EXPECT_FALSE(FillTemplate("@none@\n", command, {}).ok());
}

TEST(Template, QuotesTheHelpForEachShell) {
  const CompletedCommand command = Command();
  EXPECT_TRUE(absl::StrContains(ZshParts(command)["options"],
                                "--quiet[it'\\''s \\[quiet\\]]"));
  EXPECT_TRUE(absl::StrContains(FishParts(command)["options"],
                                "-l quiet -d 'it\\'s [quiet]'"));
}

TEST(Completions, OfEachShellOfferEachOption) {
  const absl::StatusOr<CompletedCommand> command = HandlerCommand();
  ASSERT_TRUE(command.ok()) << command.status();
  ExpectEachShellOffersTheTable(*command);
  ExpectEachShellOffersTheTable(Command());
}

TEST(Completions, HaveAFunctionForEachPlaceholder) {
  for (const absl::string_view name : CompletedPlaceholders()) {
    for (const char* shell : {"bash", "zsh"}) {
      EXPECT_TRUE(absl::StrContains(ReadTemplate(shell),
                                    absl::StrCat("\n_@command@_", name, "()")))
          << shell << ": " << name;
    }
    // fish has its own for files.
    EXPECT_EQ(
        absl::StrContains(ReadTemplate("fish"),
                          absl::StrCat("\nfunction __@command@_", name, "\n")),
        name != "FILE" && name != "PATH")
        << name;
  }
}

TEST(Completions, OfferOnlyWordsThatTheOptionTakes) {
  int words = 0;
  for (const OptionRow& row : OptionTable()) {
    if (row.completes[0] == '\0') continue;
    EXPECT_NE(row.argument[0], '\0') << row.name;
    for (const Form& form : FormsOf(row.completes)) {
      if (!form.placeholder.empty() || absl::EndsWith(form.literal, ":")) {
        continue;
      }
      Options options;
      const std::string name = absl::StrCat("--", row.name);
      const absl::Status status =
          row.set({name, form.literal, AccessRules::Names::kTrust}, options);
      EXPECT_TRUE(status.ok()) << status;
      ++words;
    }
  }
  EXPECT_GT(words, 30);
}

TEST(Completions, KnowWhichOptionsRepeat) {
  for (const OptionRow& row : OptionTable()) {
    if (row.key == nullptr) continue;
    EXPECT_EQ(row.repeats, row.key_kind == KeyKind::kList) << row.name;
  }
}

}  // namespace
}  // namespace nbdinetd
