// The filters of system calls, compiled when the program is built, and how they
// are loaded.
//
// compile_filters.cc makes them of the table in system_calls.h with libseccomp,
// one for each set of facts, and writes them out as the instructions that the
// kernel takes. So a connection neither loads a library nor compiles anything.
// The first filter has every system call that may be made, and ends the process
// for any other; the second takes away those of the negotiation.
#ifndef NBDINETD_SANDBOX_FILTERS_H_
#define NBDINETD_SANDBOX_FILTERS_H_

#include <linux/filter.h>

#include <cstddef>
#include <cstdint>

#include "sandbox/sandbox.h"

namespace nbdinetd {

struct Filter {
  const sock_filter* instructions;
  size_t count;

  // The program was built without libseccomp.
  bool absent() const { return count == 0; }
};

// Numbers that stand in a filter for what is only known when it is loaded: this
// process's id, and descriptors (SandboxFacts). None is any other number of the
// table. A descriptor that there is not is -1, on which every call fails.
inline constexpr uint32_t kOwnProcess = 0x7e6b5d41;
inline constexpr uint32_t kDirectory = 0x7e6b5d42;
inline constexpr uint32_t kInput = 0x7e6b5d43;
inline constexpr uint32_t kOutput = 0x7e6b5d44;
inline constexpr uint32_t kSocket = 0x7e6b5d45;     // that is both
inline constexpr uint32_t kKernelTls = 0x7e6b5d46;  // and may have kernel TLS
inline constexpr uint32_t kSignals = 0x7e6b5d47;
inline constexpr uint32_t kWorkers = 0x7e6b5d48;

// The facts as bits.
inline constexpr unsigned kIfTls = 1;
inline constexpr unsigned kIfWritable = 2;
inline constexpr unsigned kIfBlockDevices = 4;
inline constexpr unsigned kIfExclusive = 8;
inline constexpr unsigned kIfTakeover = 16;
inline constexpr unsigned kIfDirectory = 32;
inline constexpr unsigned kFactSets = 64;

// No filter is longer.
inline constexpr size_t kMaxFilterLength = 512;

Filter NegotiationFilter(const SandboxFacts& facts);
Filter TransmissionFilter(const SandboxFacts& facts);

// Returns 0 once the filter holds for this process, or an errno value. `filter`
// is not absent.
int LoadFilter(const Filter& filter, const SandboxFacts& facts);

// Made by compile_filters.cc: both of each set of facts.
struct CompiledFilters {
  Filter negotiation, transmission;
};
extern const CompiledFilters kCompiledFilters[kFactSets];

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_FILTERS_H_
