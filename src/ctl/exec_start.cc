#include "ctl/exec_start.h"

#include <cstddef>
#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
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
  const OptionRow* row = nullptr;  // nullptr: unknown
  std::string argument;
};

// Takes "--name", "--name=argument" or "--name argument" at `*i`, which is then
// the last of its words.
Option TakeLong(absl::Span<const std::string> arguments, size_t* i) {
  absl::string_view word = arguments[*i];
  word.remove_prefix(2);
  const size_t equals = word.find('=');
  Option option = {RowOf(word.substr(0, equals)), ""};
  if (equals != absl::string_view::npos) {
    option.argument = std::string(word.substr(equals + 1));
  } else if (NeedsArgument(option.row) && *i + 1 < arguments.size()) {
    option.argument = arguments[++*i];
  }
  return option;
}

// Takes bundled letters at `*i`, which is then the last of their words: the
// last letter may have an argument.
std::vector<Option> TakeLetters(absl::Span<const std::string> arguments,
                                size_t* i) {
  const absl::string_view word = arguments[*i];
  std::vector<Option> options;
  for (size_t k = 1; k < word.size(); ++k) {
    Option& option = options.emplace_back();
    option.row = RowOf(word[k]);
    if (!NeedsArgument(option.row)) continue;
    if (k + 1 < word.size()) {
      option.argument = std::string(word.substr(k + 1));
    } else if (*i + 1 < arguments.size()) {
      option.argument = arguments[++*i];
    }
    break;
  }
  return options;
}

bool DecidesSize(absl::string_view name) {
  return name == "offset" || name == "length" || name == "partition" ||
         name == "size" || name == "block-size";
}

// Takes the options at `*i`; none if there is an operand.
std::vector<Option> TakeOptions(absl::Span<const std::string> arguments,
                                size_t* i) {
  const std::string& word = arguments[*i];
  if (absl::StartsWith(word, "--")) return {TakeLong(arguments, i)};
  if (word.size() > 1 && word[0] == '-') return TakeLetters(arguments, i);
  return {};
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
  Options sized;  // by the options that decide about the size
  std::string file;
  bool only_operands = false;     // after "--"
  bool knows_by_address = false;  // --cow-key=peer-address
  for (size_t i = 0; i < arguments.size(); ++i) {
    const size_t first = i;
    bool is_tls = false;
    if (!only_operands && arguments[i] == "--") {
      only_operands = true;
    } else {
      const std::vector<Option> options =
          only_operands ? std::vector<Option>() : TakeOptions(arguments, &i);
      if (options.empty()) file = arguments[i];
      for (const auto& [row, argument] : options) {
        if (row == nullptr) continue;
        const absl::string_view name = row->name;
        if (name == "directory") served.directory = argument;
        if (name == "cow") served.keeps_copies = argument == "keep";
        if (name == "cow-dir") served.copy_directory = argument;
        if (name == "exportname") served.export_name = argument;
        if (name == "partitions") served.partitions = true;
        // nbdinetd itself tells what is wrong with them.
        if (DecidesSize(name)) {
          row->set({name, argument}, sized).IgnoreError();
        }
        served.read_only =
            served.read_only || name == "readonly" || name == "cow";
        const bool is_tls_key = name == "cow-key" && argument == "tls";
        is_tls = is_tls || is_tls_key || row->section == HelpSection::kTls;
        knows_by_address = knows_by_address ||
                           (name == "cow-key" && argument == "peer-address");
      }
    }
    if (is_tls) continue;
    for (size_t k = first; k <= i; ++k) {
      served.without_tls.push_back(arguments[k]);
    }
  }
  // How clients are known decides nothing that --check looks at.
  if (served.keeps_copies && !knows_by_address) {
    served.without_tls.insert(served.without_tls.begin(),
                              "--cow-key=peer-address");
  }
  served.settings = sized.export_settings;
  absl::string_view path = file;
  absl::ConsumePrefix(&path, "file=");
  served.file = std::string(path);
  return served;
}

}  // namespace nbdinetd::ctl
