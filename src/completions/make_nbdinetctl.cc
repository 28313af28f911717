// Prints a completion of nbdinetctl.
#include "completions/of_tables.h"
#include "completions/print_completions.h"

int main(int argc, char** argv) {
  return nbdinetd::PrintCompletions(nbdinetd::CtlCommand(), argc, argv);
}
