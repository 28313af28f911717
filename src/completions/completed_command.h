// A command as shells complete it: its options, verbs and operands, made from
// its table. The writers of the shells know nothing else. Threads: one.
#ifndef NBDINETD_COMPLETIONS_COMPLETED_COMMAND_H_
#define NBDINETD_COMPLETIONS_COMPLETED_COMMAND_H_

#include <cstddef>
#include <string>
#include <vector>

#include "completions/forms.h"

namespace nbdinetd {

struct CompletedOption {
  enum class Argument { kNone, kRequired, kOptional };

  char letter = '\0';  // '\0' for none
  std::string name;    // without its dashes
  // Another name, which isn't offered, but has the same argument; empty for
  // none.
  std::string alias;
  Argument argument = Argument::kNone;
  std::string argument_name;  // as in --help: "MODE"
  std::vector<Form> forms;
  std::string help;  // one line
  // The names of options that can't be given beside it, or "FILE".
  std::vector<std::string> excludes;
  std::vector<std::string> verbs;  // the only ones that take it; empty for all
  bool repeats = false;
};

struct CompletedVerb {
  std::string name;
  std::string help;
};

// What may stand at one place behind a verb.
struct CompletedOperand {
  std::string verb;   // empty for a command without verbs
  size_t place;       // counted from 0, the verb not included
  std::string first;  // what must stand at place 0; empty for anything
  std::vector<Form> forms;
};

struct CompletedCommand {
  std::string name;
  std::vector<CompletedOption> options;
  std::vector<CompletedVerb> verbs;
  std::vector<CompletedOperand> operands;
};

}  // namespace nbdinetd

#endif  // NBDINETD_COMPLETIONS_COMPLETED_COMMAND_H_
