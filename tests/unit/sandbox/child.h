// What can't be taken back is done in a process of its own.
#ifndef NBDINETD_TESTS_SANDBOX_CHILD_H_
#define NBDINETD_TESTS_SANDBOX_CHILD_H_

#include <sys/wait.h>
#include <unistd.h>

namespace nbdtest {

// Runs `function` in a child: its int as the exit status, or minus the number
// of the signal that ended it.
template <typename Function>
int InChild(Function function) {
  const pid_t pid = fork();
  if (pid == 0) _exit(function());
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return 1000;
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SANDBOX_CHILD_H_
