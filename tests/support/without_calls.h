// What the program does where the kernel lacks system calls.

#ifndef NBDINETD_TESTS_SUPPORT_WITHOUT_CALLS_H_
#define NBDINETD_TESTS_SUPPORT_WITHOUT_CALLS_H_

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <thread>
#include <vector>

namespace nbdtest {

// cachestat(2), since Linux 6.5.
inline constexpr long kCachestat = 451;

// Runs `function` in a thread, for which the system calls with these numbers
// fail with `error`; a filter of system calls belongs to a thread, and ends
// with it. The calls are of this architecture.
template <typename Function>
void WithoutCalls(const std::vector<long>& numbers, Function function,
                  int error = ENOSYS) {
  std::vector<sock_filter> code = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const long number : numbers) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                            static_cast<uint32_t>(number), 0, 1));
    code.push_back(BPF_STMT(BPF_RET | BPF_K,
                            SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)));
  }
  code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program = {static_cast<unsigned short>(code.size()),
                              code.data()};
  std::thread([&] {
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), 0);
    function();
  }).join();
}

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_WITHOUT_CALLS_H_
