#include "completions/print_completions.h"

#include <iostream>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "completions/template.h"

namespace nbdinetd {
namespace {

absl::StatusOr<Parts> PartsFor(absl::string_view shell,
                               const CompletedCommand& command) {
  if (shell == "bash") return BashParts(command);
  if (shell == "zsh") return ZshParts(command);
  if (shell == "fish") return FishParts(command);
  return absl::InvalidArgumentError("the shell is bash, zsh or fish");
}

absl::StatusOr<std::string> Completions(
    const absl::StatusOr<CompletedCommand>& command, absl::string_view shell) {
  if (!command.ok()) return command.status();
  const absl::StatusOr<Parts> parts = PartsFor(shell, *command);
  if (!parts.ok()) return parts.status();
  const std::string text(std::istreambuf_iterator<char>(std::cin), {});
  return FillTemplate(text, *command, *parts);
}

}  // namespace

int PrintCompletions(const absl::StatusOr<CompletedCommand>& command, int argc,
                     char** argv) {
  const absl::StatusOr<std::string> text =
      Completions(command, argc == 2 ? argv[1] : "");
  if (!text.ok()) {
    std::cerr << argv[0] << ": " << text.status().message() << "\n";
    return 1;
  }
  std::cout << *text;
  return std::cout.flush() ? 0 : 1;
}

}  // namespace nbdinetd
