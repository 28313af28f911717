// A number that one thread changes, while threads of this and of other
// processes read it.
//
// It has the layout of a uint64_t, so that it can lie in shared memory. The one
// writer needs no atomic addition: it loads and stores, which costs as much as
// a plain variable.
#ifndef NBDINETD_BASE_COUNTER_H_
#define NBDINETD_BASE_COUNTER_H_

#include <atomic>
#include <cstdint>

namespace nbdinetd {

class Counter {
 public:
  // It is read like a number.
  operator uint64_t() const {
    return Value(const_cast<uint64_t&>(value_)).load(kOrder);
  }
  // It wraps around.
  Counter& operator+=(uint64_t n) {
    Value(value_).store(*this + n, kOrder);
    return *this;
  }
  Counter& operator++() { return *this += 1; }
  // Makes it at least `n`.
  void Raise(uint64_t n) {
    if (*this < n) Value(value_).store(n, kOrder);
  }

 private:
  using Value = std::atomic_ref<uint64_t>;
  static constexpr std::memory_order kOrder = std::memory_order_relaxed;

  alignas(Value::required_alignment) uint64_t value_ = 0;
};
static_assert(sizeof(Counter) == sizeof(uint64_t));

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_COUNTER_H_
