// A number that a process and those that it forks count up together.
//
// Owns a page of shared memory. A process that has been taken over can falsify
// the number: it is for people only. Threads and processes: any.
#ifndef NBDINETD_BASE_SHARED_COUNTER_H_
#define NBDINETD_BASE_SHARED_COUNTER_H_

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <new>

namespace nbdinetd {

class SharedCounter {
 public:
  // Without memory, the number stays 0.
  SharedCounter() {
    void* page = mmap(nullptr, sizeof(*count_), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED) count_ = new (page) std::atomic<uint64_t>(0);
  }
  ~SharedCounter() {
    if (count_ != nullptr) munmap(count_, sizeof(*count_));
  }
  SharedCounter(const SharedCounter&) = delete;
  SharedCounter& operator=(const SharedCounter&) = delete;

  void Add() {
    if (count_ != nullptr) count_->fetch_add(1);
  }
  uint64_t value() const { return count_ == nullptr ? 0 : count_->load(); }

 private:
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
  std::atomic<uint64_t>* count_ = nullptr;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SHARED_COUNTER_H_
