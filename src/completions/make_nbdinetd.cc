// Prints a completion of nbdinetd.
#include "completions/of_tables.h"
#include "completions/print_completions.h"

int main(int argc, char** argv) {
  return nbdinetd::PrintCompletions(nbdinetd::HandlerCommand(), argc, argv);
}
