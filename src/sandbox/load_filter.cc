#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "sandbox/filters.h"

namespace nbdinetd {
namespace {

unsigned BitsOf(const SandboxFacts& facts) {
  return (facts.tls ? kIfTls : 0) | (facts.writable ? kIfWritable : 0) |
         (facts.block_devices ? kIfBlockDevices : 0) |
         (facts.exclusive ? kIfExclusive : 0) |
         (facts.takeover ? kIfTakeover : 0) |
         (facts.directory_fd >= 0 ? kIfDirectory : 0) |
         (facts.copy_fd >= 0 ? kIfCopy : 0) |
         (facts.copies_fd >= 0 ? kIfKept : 0);
}

int Load(const sock_fprog& program) {
  // Without this flag, kernels before 5.16 slow down every process that has a
  // filter (speculative store bypass), to protect parts of the process from
  // each other. This process has no such parts. Kernels before 4.17 return
  // EINVAL for the flag.
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
              SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program) == 0) {
    return 0;
  }
  if (errno != EINVAL) return errno;
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0
             ? 0
             : errno;
}

}  // namespace

Filter NegotiationFilter(const SandboxFacts& facts) {
  return kCompiledFilters[BitsOf(facts)].negotiation;
}

Filter TransmissionFilter(const SandboxFacts& facts) {
  return kCompiledFilters[BitsOf(facts)].transmission;
}

int LoadFilter(const Filter& filter, const SandboxFacts& facts) {
  sock_filter instructions[kMaxFilterLength];
  std::copy_n(filter.instructions, filter.count, instructions);
  const int socket = facts.input_fd == facts.output_fd ? facts.input_fd : -1;
  const std::pair<uint32_t, int> known[] = {
      {kOwnProcess, getpid()},
      {kDirectory, facts.directory_fd},
      {kInput, facts.input_fd},
      {kOutput, facts.output_fd},
      {kSocket, socket},
      {kKernelTls, facts.kernel_tls ? socket : -1},
      {kSignals, facts.signals_fd},
      {kWorkers, facts.workers_fd},
      {kLogFile, facts.log_fd},
      {kJournal, facts.journal_fd},
      {kCopy, facts.copy_fd},
      {kCopies, facts.copies_fd},
      {kTables, facts.tables_fd},
  };
  for (size_t i = 0; i < filter.count; ++i) {
    for (const auto& [placeholder, number] : known) {
      if (instructions[i].k == placeholder) {
        instructions[i].k = static_cast<uint32_t>(number);
        break;
      }
    }
  }
  return Load({static_cast<unsigned short>(filter.count), instructions});
}

}  // namespace nbdinetd
