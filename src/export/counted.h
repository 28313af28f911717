// Counts the threads that are in a part of a function. Threads: any.
#ifndef NBDINETD_EXPORT_COUNTED_H_
#define NBDINETD_EXPORT_COUNTED_H_

#include <atomic>

namespace nbdinetd {

// Counts one more during its lifetime. The counter is borrowed.
class Counted {
 public:
  explicit Counted(std::atomic<int>& count) : count_(count) { ++count_; }
  ~Counted() { --count_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  std::atomic<int>& count_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_COUNTED_H_
