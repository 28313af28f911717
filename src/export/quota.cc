#include "export/quota.h"

#include <cerrno>
#include <utility>

#include "export/blocks.h"
#include "export/counted.h"

namespace nbdinetd {

Quota::Quota(std::shared_ptr<Export> base, Limit limit,
             std::unique_ptr<BlockMap> stored)
    : Layer(std::move(base)), limit_(limit), stored_(std::move(stored)) {
  const uint64_t block = limit_.block_bytes;
  const uint64_t blocks = (facts().size_bytes + block - 1) / block;
  for (uint64_t at = 0; at < blocks;) {
    const BlockMap::Run run = stored_->RunAt(at, blocks);
    if (run.set) used_bytes_ += run.count * block;
    at += run.count;
  }
}

int Quota::Take(uint64_t offset, uint64_t length) {
  if (length == 0) return 0;
  const uint64_t begin = offset / limit_.block_bytes;
  const uint64_t end = (offset + length - 1) / limit_.block_bytes + 1;
  const std::lock_guard lock(count_);
  uint64_t missing = 0;
  for (uint64_t at = begin; at < end;) {
    const BlockMap::Run run = stored_->RunAt(at, end);
    if (!run.set) missing += run.count;
    at += run.count;
  }
  const uint64_t left =
      limit_.max_bytes - std::min(limit_.max_bytes, used_bytes_);
  if (missing > left / limit_.block_bytes) return ENOSPC;
  used_bytes_ += missing * limit_.block_bytes;
  if (missing != 0) stored_->Set(begin, end);
  return 0;
}

void Quota::GiveBack(uint64_t offset, uint64_t length) {
  const uint64_t block = limit_.block_bytes;
  const Range whole = WholeBlocks(offset, length, block);
  if (whole.length == 0) return;
  const std::lock_guard lock(count_);
  used_bytes_ -=
      stored_->Clear(whole.offset / block, whole.end() / block) * block;
}

int Quota::Write(uint64_t offset, absl::Span<const char> data, bool durable) {
  const std::shared_lock lock(changes_);
  if (const int error = Take(offset, data.size())) return error;
  return Layer::Write(offset, data, durable);
}

int Quota::Trim(uint64_t offset, uint64_t length) {
  if (!limit_.has_holes) return Layer::Trim(offset, length);
  const Counted counted(giving_back_);
  const std::unique_lock lock(changes_);
  if (const int error = Layer::Trim(offset, length)) return error;
  GiveBack(offset, length);
  return 0;
}

int Quota::Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
                const std::atomic<bool>* cut_short) {
  if (hole == Hole::kForbidden || !limit_.has_holes) {
    // It would be counted before the export below refuses it.
    if (!limit_.has_holes && speed == Speed::kFastOnly) return EOPNOTSUPP;
    const std::shared_lock lock(changes_);
    if (const int error = Take(offset, length)) return error;
    return Layer::Zero(offset, length, hole, speed, cut_short);
  }
  const Range whole = WholeBlocks(offset, length, limit_.block_bytes);
  // The whole blocks come first, since they give storage back. Zeroes are
  // written to the parts of blocks before and behind them.
  if (const int error =
          ZeroBlocks(whole.offset, whole.length, speed, cut_short)) {
    return error;
  }
  if (const int error = ZeroPart(offset, whole.offset - offset)) return error;
  return ZeroPart(whole.end(), offset + length - whole.end());
}

int Quota::ZeroBlocks(uint64_t offset, uint64_t length, Speed speed,
                      const std::atomic<bool>* cut_short) {
  if (length == 0) return 0;
  const Counted counted(giving_back_);
  const std::unique_lock lock(changes_);
  if (const int error =
          Layer::Zero(offset, length, Hole::kAllowed, speed, cut_short)) {
    return error;
  }
  GiveBack(offset, length);
  return 0;
}

int Quota::ZeroPart(uint64_t offset, uint64_t length) {
  if (length == 0) return 0;
  const std::shared_lock lock(changes_);
  if (const int error = Take(offset, length)) return error;
  return Layer::Zero(offset, length, Hole::kAllowed, Speed::kAny, nullptr);
}

}  // namespace nbdinetd
