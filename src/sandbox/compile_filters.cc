// Runs when nbdinetd is built: compiles the table in system_calls.h with
// libseccomp, and writes the filters as C++.
#include <seccomp.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "sandbox/filters.h"
#include "sandbox/system_calls.h"
#include "sandbox/table_calls.h"

namespace nbdinetd {
namespace {

static_assert(sizeof(void*) == 8,
              "the table has none of the calls that 32-bit systems make in "
              "place of these; use ./configure --without-seccomp");

// The oldest API level that has every feature used here, whatever kernel the
// build machine has.
constexpr unsigned kApiLevel = 3;
// Sorted by system call number: the kernel finds one in a few comparisons.
constexpr uint32_t kBinaryTree = 2;

[[noreturn]] void Fail(const char* what, const char* on, int error) {
  std::fprintf(stderr, "compile_filters: failed to %s %s: %s\n", what, on,
               std::strerror(error));
  std::exit(1);
}

void Check(int result, const char* what, const char* on) {
  if (result < 0) Fail(what, on, -result);
}

// Sets `*number` as libseccomp knows it. False for a system call that this
// architecture lacks.
bool NumberOf(const SystemCall& call, int* number) {
  if (call.name[0] == '#') {
    *number = std::atoi(call.name + 1);
    return true;
  }
  *number = seccomp_syscall_resolve_name(call.name);
  if (*number == __NR_SCMP_ERROR) Fail("find", call.name, ENOSYS);
  return *number >= 0;
}

void AddRule(scmp_filter_ctx context, uint32_t action, const SystemCall& call) {
  int number;
  if (!NumberOf(call, &number)) return;
  std::vector<scmp_arg_cmp> conditions;
  for (const Condition& condition : {call.first, call.second, call.third}) {
    switch (condition.kind) {
      case Condition::Kind::kNone:
        break;
      case Condition::Kind::kInt:
        conditions.push_back({condition.argument, SCMP_CMP_MASKED_EQ,
                              condition.mask, condition.value});
        break;
      case Condition::Kind::kLong:
        conditions.push_back(
            {condition.argument, SCMP_CMP_EQ, condition.value, 0});
        break;
    }
  }
  Check(seccomp_rule_add_array(context, action, number,
                               static_cast<unsigned>(conditions.size()),
                               conditions.data()),
        "add a rule for", call.name);
}

scmp_filter_ctx NewContext(uint32_t default_action) {
  scmp_filter_ctx context = seccomp_init(default_action);
  if (context == nullptr) Fail("begin", "a filter", EINVAL);
  Check(
      seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
      "set", "what becomes of other architectures");
  Check(seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, kBinaryTree), "set",
        "the order");
  return context;
}

using Instructions = std::vector<sock_filter>;

Instructions Export(scmp_filter_ctx context) {
  std::FILE* file = std::tmpfile();
  if (file == nullptr) Fail("make", "a temporary file", errno);
  Check(seccomp_export_bpf(context, fileno(file)), "export", "a filter");
  const off_t size = lseek(fileno(file), 0, SEEK_END);
  Instructions instructions(static_cast<size_t>(size) / sizeof(sock_filter));
  if (size <= 0 || pread(fileno(file), instructions.data(),
                         static_cast<size_t>(size), 0) != size) {
    Fail("read", "a filter", EIO);
  }
  std::fclose(file);
  seccomp_release(context);
  if (instructions.size() > kMaxFilterLength) Fail("fit", "a filter", E2BIG);
  return instructions;
}

bool Applies(const SystemCall& call, unsigned facts) {
  return (call.needs & ~facts) == 0;
}

Instructions Negotiation(unsigned facts) {
  scmp_filter_ctx context = NewContext(SCMP_ACT_KILL_PROCESS);
  for (const SystemCall& call : kSystemCalls) {
    if (!Applies(call, facts)) continue;
    AddRule(context,
            call.refused_by == 0
                ? SCMP_ACT_ALLOW
                : SCMP_ACT_ERRNO(static_cast<uint16_t>(call.refused_by)),
            call);
  }
  return Export(context);
}

// Only forbids: the first filter remains active.
Instructions Transmission(unsigned facts) {
  scmp_filter_ctx context = NewContext(SCMP_ACT_ALLOW);
  for (const SystemCall& call : kSystemCalls) {
    if (call.when == When::kNegotiation && Applies(call, facts)) {
      AddRule(context, SCMP_ACT_KILL_PROCESS, call);
    }
  }
  return Export(context);
}

Instructions Tables() {
  scmp_filter_ctx context = NewContext(SCMP_ACT_ERRNO(EPERM));
  for (const SystemCall& call : kTableCalls) {
    AddRule(context, SCMP_ACT_ALLOW, call);
  }
  return Export(context);
}

// All filters in one array, with equal ones stored once.
class Output {
 public:
  // Returns the index of its first instruction.
  size_t Add(const Instructions& instructions) {
    std::vector<uint64_t> key;
    for (const sock_filter& i : instructions) {
      uint64_t word;
      static_assert(sizeof(word) == sizeof(i));
      std::memcpy(&word, &i, sizeof(word));
      key.push_back(word);
    }
    const auto [place, is_new] = places_.emplace(key, all_.size());
    if (is_new)
      all_.insert(all_.end(), instructions.begin(), instructions.end());
    return place->second;
  }

  void Print() const {
    std::printf("constexpr sock_filter kInstructions[] = {\n");
    for (const sock_filter& i : all_) {
      std::printf("  {%u, %u, %u, %uu},\n", i.code, i.jt, i.jf, i.k);
    }
    std::printf("};\n");
  }

 private:
  std::map<std::vector<uint64_t>, size_t> places_;
  Instructions all_;
};

void Run() {
  Check(seccomp_api_set(kApiLevel), "use", "libseccomp");
  Output output;
  struct Place {
    size_t start, count;
  };
  Place places[kFactSets][2];
  for (unsigned facts = 0; facts < kFactSets; ++facts) {
    const Instructions filters[] = {Negotiation(facts), Transmission(facts)};
    for (int i = 0; i < 2; ++i) {
      places[facts][i] = {output.Add(filters[i]), filters[i].size()};
    }
  }
  const Instructions tables = Tables();
  const Place table_place = {output.Add(tables), tables.size()};
  std::printf(
      "// Made by compile_filters.cc from system_calls.h.\n"
      "#include \"sandbox/filters.h\"\n\n"
      "namespace nbdinetd {\n\nnamespace {\n\n");
  output.Print();
  std::printf(
      "\n}  // namespace\n\n"
      "const CompiledFilters kCompiledFilters[kFactSets] = {\n");
  for (const auto& [negotiation, transmission] : places) {
    std::printf("  {{kInstructions + %zu, %zu}, {kInstructions + %zu, %zu}},\n",
                negotiation.start, negotiation.count, transmission.start,
                transmission.count);
  }
  std::printf(
      "};\n\nconst Filter kTableFilter = {kInstructions + %zu, %zu};\n\n"
      "}  // namespace nbdinetd\n",
      table_place.start, table_place.count);
}

}  // namespace
}  // namespace nbdinetd

int main() {
  nbdinetd::Run();
  return std::fflush(stdout) == 0 ? 0 : 1;
}
