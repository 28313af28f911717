// What the bytes of an export may be, while many requests change them at once.
//
// Each change gets a version, and bytes that depend on the version and on where
// they lie (VersionBytes), so that neither old bytes nor bytes from another
// place look right. For each range the model keeps the versions that may be
// there. One that was surely complete before another began is replaced by it
// when that one is complete; where two overlap in time, either may be there,
// each byte by itself. A reader may see what was there at any moment between
// its beginning and its end. Times are ticks of a clock of the model's own.
//
// Threads: any number.

#ifndef NBDINETD_TESTS_SUPPORT_TORTURE_MODEL_H_
#define NBDINETD_TESTS_SUPPORT_TORTURE_MODEL_H_

#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "wire.h"

namespace nbdtest {

// Version 0 is all zeroes.
inline constexpr uint64_t kZeroVersion = 0;

// The bytes of the version at [offset, offset + length).
Bytes VersionBytes(uint64_t version, uint64_t offset, size_t length);

class TortureModel {
 public:
  using Time = uint64_t;

  // All of it is zeroes.
  explicit TortureModel(uint64_t size);
  // The bytes are those of `original`, which nothing changes meanwhile, and
  // other changes of it have versions up to `last_version`.
  TortureModel(TortureModel& original, uint64_t last_version);

  uint64_t size() const { return size_; }

  struct Change {
    uint64_t offset = 0;
    uint64_t length = 0;
    uint64_t version = kZeroVersion;
    Time start = 0;
  };
  // From now on the bytes may become the new version, or zeroes.
  Change BeginWrite(uint64_t offset, uint64_t length);
  Change BeginZero(uint64_t offset, uint64_t length);

  enum class Outcome {
    kDone,     // all of the bytes are as wanted
    kMaybe,    // each may be; a trim, or nobody knows
    kRefused,  // none of them was touched
  };
  void End(const Change& change, Outcome outcome);

  // What a reader may see is kept from Begin to End.
  Time BeginReading();
  void EndReading(Time start);

  // What is wrong with the bytes that a reader, who began at `start` and has
  // just ended, got from `offset`; nothing if they may be right. What was read
  // while nothing changed is what the bytes are from then on.
  std::optional<std::string> Check(Time start, uint64_t offset,
                                   std::string_view bytes);
  // The same of [offset, offset + length), of which the reader was told that it
  // is zeroes.
  std::optional<std::string> CheckZeroes(Time start, uint64_t offset,
                                         uint64_t length);

 private:
  static constexpr Time kNever = std::numeric_limits<Time>::max();

  struct Entry {
    uint64_t version = kZeroVersion;
    Time start = 0;
    Time end = kNever;       // kNever: under way
    Time replaced = kNever;  // since when it can't be there any more
    bool operator==(const Entry&) const = default;
  };
  // Of the range from the key to the next segment's.
  using Entries = std::vector<Entry>;
  using Segments = std::map<uint64_t, Entries>;
  struct Allowed {
    uint64_t offset = 0;
    uint64_t length = 0;
    std::vector<uint64_t> versions;
    bool quiet = false;
  };

  // Makes segments begin and end there.
  void SplitAt(uint64_t offset);
  Change Begin(uint64_t offset, uint64_t length, uint64_t version);
  void Replace(Entries& entries, Time before);
  // Forgets what no reader can see any more, and joins equal neighbours.
  void Tidy(uint64_t offset, uint64_t length);
  std::vector<Allowed> AllowedSince(Time start, uint64_t offset,
                                    uint64_t length);
  void Settle(Time start, uint64_t offset, uint64_t length, uint64_t version);

  const uint64_t size_;
  std::mutex mutex_;  // guards all below
  Time now_ = 1;
  uint64_t last_version_ = kZeroVersion;
  Segments segments_;
  std::multiset<Time> readers_;
};

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_TORTURE_MODEL_H_
