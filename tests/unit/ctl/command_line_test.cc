// The rows of verbs, options and columns, with the manual and the completions
// held to them; and the parsing of command lines.

#include "ctl/command_line.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "completions/of_tables.h"
#include "ctl/columns.h"
#include "unit/completions/offered.h"

namespace nbdinetd::ctl {
namespace {

std::string ReadFile(const std::string& name) {
  const char* top = std::getenv("NBDINETD_SRCDIR");
  EXPECT_NE(top, nullptr);
  std::ifstream file(absl::StrCat(top == nullptr ? "." : top, "/", name));
  EXPECT_TRUE(file.is_open()) << name;
  return {std::istreambuf_iterator<char>(file),
          std::istreambuf_iterator<char>()};
}

// The lines of a section of a manual page.
std::string Section(const std::string& manual, const std::string& name) {
  const size_t start = manual.find(absl::StrCat("\n.Sh ", name, "\n"));
  EXPECT_NE(start, std::string::npos) << name;
  return manual.substr(start, manual.find("\n.Sh ", start + 1) - start);
}

Words Verbs() {
  Words words;
  for (const VerbRow& row : VerbRows()) words.insert(row.name);
  return words;
}

Words Options() {
  Words words;
  for (const CtlOptionRow& row : OptionRows()) {
    words.insert(absl::StrCat("--", row.name));
    if (row.letter != '\0') words.insert({'-', row.letter});
  }
  return words;
}

TEST(CtlCommandLine, TheManualHasEachVerbOptionAndNameOfJson) {
  const std::string manual = ReadFile("man/nbdinetctl.1.in");
  EXPECT_EQ(Found(Section(manual, "VERBS"), "\n\\.It Cm (\\w+)"), Verbs());
  Words options = Found(Section(manual, "OPTIONS"), "Fl (Fl [a-z-]+)");
  Words letters = Found(Section(manual, "OPTIONS"), "\\.It Fl (\\w)\\b");
  Words spelled;
  for (const std::string& option : options) {
    spelled.insert(absl::StrCat("--", option.substr(3)));
  }
  for (const std::string& letter : letters) {
    spelled.insert(absl::StrCat("-", letter));
  }
  EXPECT_EQ(spelled, Options());
  Words names;
  for (const auto& columns :
       {ListColumns(), ConnectionColumns(), HistoryColumns(),
        DisconnectColumns(), ActionColumns(), CheckColumns(), ProbeColumns(),
        CopyColumns()}) {
    for (const Column& column : columns) names.insert(column.name);
  }
  Words documented;
  for (const std::string& head :
       Found(Section(manual, "JSON"), "\n\\.It Va ([^\n]*)")) {
    for (absl::string_view name : absl::StrSplit(head, " , ")) {
      documented.emplace(name);
    }
  }
  EXPECT_EQ(documented, names);
}

TEST(CtlCommandLine, TheCompletionsHaveEachVerbAndOption) {
  const absl::StatusOr<CompletedCommand> command = CtlCommand();
  ASSERT_TRUE(command.ok()) << command.status();
  Words words = Verbs();
  words.merge(Options());
  EXPECT_EQ(OfTable(*command), words);
  ExpectEachShellOffersTheTable(*command);
}

TEST(CtlCommandLine, TheCompletionsOfferOnlyWordsThatTheOptionTakes) {
  int words = 0;
  for (const CtlOptionRow& row : OptionRows()) {
    if (row.completes[0] == '\0') continue;
    const absl::StatusOr<std::vector<Form>> forms = ParseForms(row.completes);
    ASSERT_TRUE(forms.ok()) << forms.status();
    for (const Form& form : *forms) {
      if (!form.placeholder.empty()) continue;
      CommandLine line;
      EXPECT_TRUE(row.set(form.literal, line).ok()) << form.literal;
      ++words;
    }
  }
  EXPECT_GT(words, 4);
}

TEST(CtlCommandLine, HelpHasEachVerbAndOption) {
  const std::string help = HelpText();
  EXPECT_EQ(Found(help, "\n  ([a-z]+)"), Verbs());
  for (const std::string& option : Options()) {
    EXPECT_TRUE(absl::StrContains(help, option)) << option;
  }
}

absl::Status Parse(const std::vector<std::string>& words, CommandLine* line) {
  std::vector<std::string> copy = words;
  copy.insert(copy.begin(), "nbdinetctl");
  std::vector<char*> argv;
  for (std::string& word : copy) argv.push_back(word.data());
  argv.push_back(nullptr);
  return ParseCommandLine(static_cast<int>(copy.size()), argv.data(), line);
}

TEST(CtlCommandLine, OptionsMayFollowTheVerb) {
  CommandLine line;
  ASSERT_TRUE(Parse({"history", "golden", "--peer=192.0.2.7", "-H", "a@b",
                     "--json", "--no-legend"},
                    &line)
                  .ok());
  EXPECT_EQ(line.verb, "history");
  EXPECT_EQ(line.arguments, std::vector<std::string>{"golden"});
  EXPECT_EQ(line.peer, "192.0.2.7");
  EXPECT_EQ(line.where.host, "a@b");
  EXPECT_EQ(line.json, Json::kPretty);
  EXPECT_FALSE(line.legend);
  CommandLine none;
  ASSERT_TRUE(Parse({}, &none).ok());
  EXPECT_EQ(none.verb, "list");
  EXPECT_EQ(none.json, Json::kOff);
}

TEST(CtlCommandLine, WrongUsageSaysWhatIsRight) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> kWrong = {
      {{"lst"}, "unknown verb \"lst\": did you mean list? "},
      {{"conections", "x"}, "did you mean connections?"},
      {{"frobnicate"}, "unknown verb \"frobnicate\": 'nbdinetctl --help'"},
      {{"list", "golden"}, "usage: nbdinetctl list"},
      {{"disconnect"}, "usage: nbdinetctl disconnect PEER|EXPORT"},
      {{"--peer=x"}, "--peer is for history, not for list"},
      {{"start", "x", "--now"}, "--now is for enable and disable"},
      {{"--json=xml"}, "\"pretty\", \"short\" or \"off\""},
      {{"--nonsense"}, "unknown option \"--nonsense\": 'nbdinetctl --help'"},
      {{"history", "--sinse=today"},
       "unknown option \"--sinse\": did you mean --since?"},
      {{"history", "-z"}, "unknown option \"-z\": "},
      {{"history", "-lz", "x"}, "unknown option \"-z\": "},
      {{"--no"},
       "option \"--no\" is the beginning of several: --no-legend, --no-pager, "
       "--now"},
      {{"history", "--peer"}, "--peer needs an argument: --peer=PEER"},
      {{"list", "-H"}, "-H needs an argument: --host=[USER@]HOST"},
      {{"list", "--full=x"}, "--full takes no argument: \"--full=x\""},
      {{"-H", "-oProxyCommand=x"}, "not the name of a machine"},
      {{"-H", "a", "-M", "b"}, "--host can't be combined"},
      {{"history", "--since=soon"}, "\"soon\" is no time"},
  };
  for (const auto& [words, complaint] : kWrong) {
    CommandLine line;
    const absl::Status status = Parse(words, &line);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << complaint;
    EXPECT_TRUE(absl::StrContains(status.message(), complaint))
        << status.message();
  }
}

}  // namespace
}  // namespace nbdinetd::ctl
