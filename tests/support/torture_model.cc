#include "torture_model.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace nbdtest {

namespace {

// A word of a version's bytes holds both numbers, stirred by a function that
// can be undone: so a failure can say what it is that came instead.
constexpr int kWordIndexBits = 28;
constexpr uint64_t kFactor = 0x9E3779B97F4A7C15;
constexpr uint64_t kFactorInverse = 0xF1DE83E19937733D;
static_assert(kFactor * kFactorInverse == 1);

uint64_t Stir(uint64_t word) {
  word *= kFactor;
  word ^= word >> 32;
  return word * kFactor;
}

uint64_t Unstir(uint64_t word) {
  word *= kFactorInverse;
  word ^= word >> 32;
  return word * kFactorInverse;
}

uint64_t Word(uint64_t version, uint64_t index) {
  if (version == kZeroVersion) return 0;
  return Stir(version << kWordIndexBits | index);
}

// Where the bytes at `offset` come from, if they are a version's.
std::string Origin(std::string_view bytes, uint64_t offset, size_t at) {
  const size_t skip = (8 - (offset + at) % 8) % 8;
  if (at + skip + 8 > bytes.size()) return "too few to tell their version";
  uint64_t word;
  std::memcpy(&word, bytes.data() + at + skip, 8);
  if (word == 0) return "zeroes";
  const uint64_t plain = Unstir(word);
  return "version " + std::to_string(plain >> kWordIndexBits) + " of offset " +
         std::to_string(plain % (uint64_t{1} << kWordIndexBits) * 8);
}

// The first byte that none of the versions has, or npos.
size_t FirstWrong(std::string_view bytes, uint64_t offset,
                  const std::vector<uint64_t>& versions) {
  std::vector<Bytes> allowed;
  for (uint64_t version : versions) {
    allowed.push_back(VersionBytes(version, offset, bytes.size()));
    if (allowed.back() == bytes) return std::string_view::npos;
  }
  for (size_t at = 0; at < bytes.size(); ++at) {
    const auto has_it = [&](const Bytes& one) { return one[at] == bytes[at]; };
    if (std::none_of(allowed.begin(), allowed.end(), has_it)) return at;
  }
  return std::string_view::npos;
}

std::string List(const std::vector<uint64_t>& versions) {
  std::string text;
  for (uint64_t version : versions) {
    text += (text.empty() ? "" : ", ") + std::to_string(version);
  }
  return text;
}

}  // namespace

Bytes VersionBytes(uint64_t version, uint64_t offset, size_t length) {
  Bytes bytes((offset % 8 + length + 7) / 8 * 8, '\0');
  if (version != kZeroVersion) {
    uint64_t index = offset / 8;
    for (size_t at = 0; at < bytes.size(); at += 8) {
      const uint64_t word = Word(version, index++);
      std::memcpy(bytes.data() + at, &word, 8);
    }
  }
  bytes.erase(0, offset % 8);
  bytes.resize(length);
  return bytes;
}

TortureModel::TortureModel(TortureModel& original, uint64_t last_version)
    : size_(original.size_), last_version_(last_version) {
  const std::lock_guard<std::mutex> lock(original.mutex_);
  now_ = original.now_;
  segments_ = original.segments_;
}

TortureModel::TortureModel(uint64_t size) : size_(size) {
  segments_[0] = {{.version = kZeroVersion, .start = 0, .end = 0}};
  segments_[size] = {};
}

void TortureModel::SplitAt(uint64_t offset) {
  const auto next = segments_.upper_bound(offset);
  const auto found = std::prev(next);
  if (found->first != offset) {
    segments_.emplace_hint(next, offset, found->second);
  }
}

TortureModel::Change TortureModel::BeginWrite(uint64_t offset,
                                              uint64_t length) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return Begin(offset, length, ++last_version_);
}

TortureModel::Change TortureModel::BeginZero(uint64_t offset, uint64_t length) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return Begin(offset, length, kZeroVersion);
}

TortureModel::Change TortureModel::Begin(uint64_t offset, uint64_t length,
                                         uint64_t version) {
  const Change change = {offset, length, version, ++now_};
  SplitAt(offset);
  SplitAt(offset + length);
  for (auto at = segments_.find(offset); at->first < offset + length; ++at) {
    at->second.push_back({.version = version, .start = change.start});
  }
  return change;
}

void TortureModel::Replace(Entries& entries, Time before) {
  for (Entry& entry : entries) {
    if (entry.end < before) entry.replaced = std::min(entry.replaced, now_);
  }
}

void TortureModel::End(const Change& change, Outcome outcome) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++now_;
  for (auto at = segments_.find(change.offset);
       at->first < change.offset + change.length; ++at) {
    Entries& entries = at->second;
    const auto own = std::find_if(
        entries.begin(), entries.end(),
        [&](const Entry& entry) { return entry.start == change.start; });
    if (outcome == Outcome::kRefused) {
      entries.erase(own);
      continue;
    }
    own->end = now_;
    if (outcome == Outcome::kDone) Replace(entries, change.start);
  }
  Tidy(change.offset, change.length);
}

void TortureModel::Tidy(uint64_t offset, uint64_t length) {
  const Time oldest = readers_.empty() ? now_ : *readers_.begin();
  auto at = segments_.upper_bound(offset);
  --at;
  if (at != segments_.begin()) --at;
  const uint64_t end = std::min(offset + length + 1, size_);
  while (at->first < end) {
    std::erase_if(at->second,
                  [&](const Entry& entry) { return entry.replaced <= oldest; });
    const bool joins =
        at != segments_.begin() && std::prev(at)->second == at->second;
    at = joins ? segments_.erase(at) : std::next(at);
  }
}

TortureModel::Time TortureModel::BeginReading() {
  const std::lock_guard<std::mutex> lock(mutex_);
  readers_.insert(++now_);
  return now_;
}

void TortureModel::EndReading(Time start) {
  const std::lock_guard<std::mutex> lock(mutex_);
  readers_.erase(readers_.find(start));
}

std::vector<TortureModel::Allowed> TortureModel::AllowedSince(Time start,
                                                              uint64_t offset,
                                                              uint64_t length) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Allowed> result;
  const uint64_t end = offset + length;
  for (auto at = std::prev(segments_.upper_bound(offset)); at->first < end;
       ++at) {
    Allowed allowed;
    allowed.offset = std::max(at->first, offset);
    allowed.length = std::min(std::next(at)->first, end) - allowed.offset;
    allowed.quiet = true;
    for (const Entry& entry : at->second) {
      if (entry.replaced <= start) continue;
      allowed.versions.push_back(entry.version);
      allowed.quiet &= entry.end < start;
    }
    result.push_back(std::move(allowed));
  }
  return result;
}

void TortureModel::Settle(Time start, uint64_t offset, uint64_t length,
                          uint64_t version) {
  const std::lock_guard<std::mutex> lock(mutex_);
  SplitAt(offset);
  SplitAt(offset + length);
  ++now_;
  for (auto at = segments_.find(offset); at->first < offset + length; ++at) {
    Entries& entries = at->second;
    // Somebody may have begun a change since the bytes were looked at.
    const bool has_it =
        std::any_of(entries.begin(), entries.end(), [&](const Entry& entry) {
          return entry.version == version && entry.end < start &&
                 entry.replaced == kNever;
        });
    if (!has_it) continue;
    for (Entry& entry : entries) {
      if (entry.version != version && entry.end < start) {
        entry.replaced = std::min(entry.replaced, now_);
      }
    }
  }
  Tidy(offset, length);
}

std::optional<std::string> TortureModel::Check(Time start, uint64_t offset,
                                               std::string_view bytes) {
  for (const Allowed& allowed : AllowedSince(start, offset, bytes.size())) {
    const std::string_view part =
        bytes.substr(allowed.offset - offset, allowed.length);
    const size_t wrong = FirstWrong(part, allowed.offset, allowed.versions);
    if (wrong != std::string_view::npos) {
      return "the byte at offset " + std::to_string(allowed.offset + wrong) +
             " is wrong, in [" + std::to_string(allowed.offset) + ", " +
             std::to_string(allowed.offset + allowed.length) +
             "): allowed are the versions " + List(allowed.versions) +
             "; the bytes from there on are " +
             Origin(bytes, offset, allowed.offset - offset + wrong);
    }
    if (!allowed.quiet || allowed.versions.size() < 2) continue;
    for (uint64_t version : allowed.versions) {
      // A short match may be chance.
      if (part.size() >= 16 &&
          part == VersionBytes(version, allowed.offset, part.size())) {
        Settle(start, allowed.offset, allowed.length, version);
        break;
      }
    }
  }
  return std::nullopt;
}

std::optional<std::string> TortureModel::CheckZeroes(Time start,
                                                     uint64_t offset,
                                                     uint64_t length) {
  for (const Allowed& allowed : AllowedSince(start, offset, length)) {
    if (std::find(allowed.versions.begin(), allowed.versions.end(),
                  kZeroVersion) == allowed.versions.end()) {
      return "the bytes from offset " + std::to_string(allowed.offset) +
             " to " + std::to_string(allowed.offset + allowed.length) +
             " are no zeroes, but may be the versions " +
             List(allowed.versions);
    }
  }
  return std::nullopt;
}

}  // namespace nbdtest
