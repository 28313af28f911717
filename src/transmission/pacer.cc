#include "transmission/pacer.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "protocol/nbd.h"

namespace nbdinetd {
namespace {

bool AnyLimit(const DirectionLimits& limits) {
  return limits.reads.limits() || limits.writes.limits();
}

// Changes of the export count as writes.
bool IsWrite(const Request& request) {
  return request.type == NBD_CMD_WRITE || request.type == NBD_CMD_TRIM ||
         request.type == NBD_CMD_WRITE_ZEROES;
}

// Bytes that go over the connection. Others may be many more than any client
// could send: a trim of all of the export is one request. The request may be
// one that will be refused, of any length.
uint64_t TransferredBytes(const Request& request) {
  return request.type == NBD_CMD_READ || request.type == NBD_CMD_WRITE
             ? std::min<uint64_t>(request.length, kMaxPayloadBytes)
             : 0;
}

}  // namespace

Pacer::Pacer(const TransferLimits& limits)
    : limits_(AnyLimit(limits.bytes) || AnyLimit(limits.requests)),
      bytes_(limits.bytes),
      requests_(limits.requests) {}

void Pacer::Change(const TransferLimits& limits, absl::Time now) {
  limits_ = AnyLimit(limits.bytes) || AnyLimit(limits.requests);
  bytes_.Change(limits.bytes, now);
  requests_.Change(limits.requests, now);
}

bool Pacer::Holds(uint16_t type) {
  return type != NBD_CMD_FLUSH && type != NBD_CMD_DISC && type != NBD_CMD_WRITE;
}

absl::Time Pacer::ReadyAt(bool is_write, absl::Time now, bool can_start) const {
  const std::deque<Held>& queue = QueueOf(is_write);
  if (queue.empty() ||
      (!can_start && queue.front().request.type != NBD_CMD_WRITE)) {
    return absl::InfiniteFuture();
  }
  return std::max(bytes_.Of(is_write).ReadyAt(now),
                  requests_.Of(is_write).ReadyAt(now));
}

void Pacer::Hold(Held held) {
  const Request& request = held.request;
  if (request.type == NBD_CMD_WRITE) held_bytes_ += request.length;
  (IsWrite(request) ? writes_ : reads_).push_back(std::move(held));
}

Pacer::Held Pacer::Take(bool is_write) {
  std::deque<Held>& queue = is_write ? writes_ : reads_;
  Held held = std::move(queue.front());
  queue.pop_front();
  if (held.request.type == NBD_CMD_WRITE) held_bytes_ -= held.request.length;
  return held;
}

std::optional<Pacer::Held> Pacer::TakeDue(absl::Time now, bool can_start) {
  for (const bool is_write : {!last_was_write_, last_was_write_}) {
    if (ReadyAt(is_write, now, can_start) > now) continue;
    Held held = Take(is_write);
    bytes_.Of(is_write).Take(TransferredBytes(held.request), now);
    requests_.Of(is_write).Take(1, now);
    last_was_write_ = is_write;
    return held;
  }
  return std::nullopt;
}

absl::Time Pacer::next(absl::Time now, bool can_start) const {
  return std::min(ReadyAt(/*is_write=*/false, now, can_start),
                  ReadyAt(/*is_write=*/true, now, can_start));
}

std::optional<Pacer::Held> Pacer::TakeAny() {
  if (!reads_.empty()) return Take(/*is_write=*/false);
  if (!writes_.empty()) return Take(/*is_write=*/true);
  return std::nullopt;
}

bool Pacer::full() const {
  return reads_.size() + writes_.size() >= kMaxHeldRequests ||
         held_bytes_ >= kMaxHeldBytes;
}

}  // namespace nbdinetd
