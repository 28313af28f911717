// What a program writes and syncs, call by call, and what a crash leaves of it.
//
// A kill keeps what has been written up to a call. A power cut keeps what a
// sync has made durable, and any 512 bytes of what was written since, or not. A
// failed sync loses any of what was written before it for good, whatever later
// syncs say: the kernel takes the pages for clean.

#ifndef NBDINETD_TESTS_UNIT_EXPORT_RECORDER_H_
#define NBDINETD_TESTS_UNIT_EXPORT_RECORDER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace nbdtest {

// What happened to a file, in order. kFullSync is an fsync(), which also makes
// the file's time durable; the data are taken for what fdatasync() leaves.
struct StorageEvent {
  enum class Kind {
    kWrite,
    kDurableWrite,
    kSync,
    kFullSync,
    kFailedSync,
    kPromise
  };
  Kind kind;
  int fd = -1;
  uint64_t offset = 0;
  std::string bytes = {};
  // Of a sync: how many events had happened when it began.
  size_t begin = 0;
  // Of a promise: the clients' values that have to be there from now on.
  size_t client = 0;
  size_t writes = 0;
};

// The next calls on this descriptor fail: as many as are left.
struct Faults {
  std::atomic<int> fd = -1;
  std::atomic<int> failed_syncs = 0;
  std::atomic<int> failed_writes = 0;
  // Before them, so many go well.
  std::atomic<int> good_syncs = 0;
  std::atomic<int> good_writes = 0;
};

class Recorder {
 public:
  // Syncs of files that are deleted with the test would only take their time.
  static inline std::atomic<bool> skips_syncs = false;
  static inline Faults faults;
  // The clock doesn't go on: a file's time can be set, but not to another by
  // the time of day.
  static inline std::atomic<bool> stops_clock = false;

  Recorder() { active_ = this; }
  ~Recorder() { active_ = nullptr; }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  static Recorder* active() { return active_; }

  void Add(StorageEvent event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  size_t size() {
    const std::lock_guard lock(mutex_);
    return events_.size();
  }
  const std::vector<StorageEvent>& events() const { return events_; }

 private:
  static inline std::atomic<Recorder*> active_ = nullptr;
  std::mutex mutex_;
  std::vector<StorageEvent> events_;
};

// The content of a file, which was `file`, after a kill before event `end`.
std::string Killed(std::string file, const std::vector<StorageEvent>& events,
                   size_t end);
// After a power cut before event `end`; `fd` is that of the file, if there are
// events of others.
std::string CutOff(std::string file, const std::vector<StorageEvent>& events,
                   size_t end, std::mt19937_64& random, int fd = -1);
// What certainly is on the storage of all that.
std::string Stored(std::string file, const std::vector<StorageEvent>& events,
                   int fd);

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_UNIT_EXPORT_RECORDER_H_
