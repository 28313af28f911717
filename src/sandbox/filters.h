// The seccomp filters, which are compiled at build time, and their loading.
//
// compile_filters.cc makes them from the table in system_calls.h with
// libseccomp, one pair for each set of facts, and writes them as the kernel's
// instructions. A connection therefore neither loads a library nor compiles
// anything. The first filter allows the system calls of the table, and ends the
// process for any other; the second one forbids those of the negotiation.
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

  // True if the program was built without libseccomp.
  bool absent() const { return count == 0; }
};

// Placeholders in a filter for values that are known only when it is loaded:
// this process's id, and descriptors (SandboxFacts). No other number of the
// table equals one. A missing descriptor is -1, on which every call fails.
inline constexpr uint32_t kOwnProcess = 0x7e6b5d41;
inline constexpr uint32_t kDirectory = 0x7e6b5d42;
inline constexpr uint32_t kInput = 0x7e6b5d43;
inline constexpr uint32_t kOutput = 0x7e6b5d44;
inline constexpr uint32_t kSocket = 0x7e6b5d45;     // if both are one socket
inline constexpr uint32_t kKernelTls = 0x7e6b5d46;  // if it may have kernel TLS
inline constexpr uint32_t kSignals = 0x7e6b5d47;
inline constexpr uint32_t kWorkers = 0x7e6b5d48;
inline constexpr uint32_t kLogFile = 0x7e6b5d49;
inline constexpr uint32_t kJournal = 0x7e6b5d4a;
inline constexpr uint32_t kCopy = 0x7e6b5d4b;
inline constexpr uint32_t kCopies = 0x7e6b5d4c;
inline constexpr uint32_t kTables = 0x7e6b5d4d;

// The facts as bits.
inline constexpr unsigned kIfTls = 1;
inline constexpr unsigned kIfWritable = 2;
inline constexpr unsigned kIfBlockDevices = 4;
inline constexpr unsigned kIfExclusive = 8;
inline constexpr unsigned kIfTakeover = 16;
inline constexpr unsigned kIfDirectory = 32;
inline constexpr unsigned kIfCopy = 64;
inline constexpr unsigned kIfKept = 128;  // and kIfCopy
inline constexpr unsigned kFactSets = 256;

// The most instructions of a filter; compile_filters fails beyond it.
inline constexpr size_t kMaxFilterLength = 512;

Filter NegotiationFilter(const SandboxFacts& facts);
Filter TransmissionFilter(const SandboxFacts& facts);

// Returns 0 after the filter is active for this process, or an errno value.
// `filter` must not be absent.
int LoadFilter(const Filter& filter, const SandboxFacts& facts);

// Written by compile_filters.cc: both filters of each set of facts.
struct CompiledFilters {
  Filter negotiation, transmission;
};
extern const CompiledFilters kCompiledFilters[kFactSets];
// That of the process that reads partition tables (table_calls.h).
extern const Filter kTableFilter;

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_FILTERS_H_
