#include "export/loss_mark.h"

#include <utility>

namespace nbdinetd {

LossMark::LossMark(std::shared_ptr<Export> file, FoundHeader found,
                   AtEnd at_end)
    : Layer(std::move(file)), at_end_(at_end), found_(std::move(found)) {}

LossMark::~LossMark() {
  if (at_end_ == AtEnd::kFlush) LossMark::Flush();
}

int LossMark::Write(uint64_t offset, absl::Span<const char> data,
                    bool durable) {
  const int error = Layer::Write(offset, data, durable);
  // Whether this is a loss, and no mere want of space, is what a flush says.
  if (error != 0 && durable) LossMark::Flush();
  return error;
}

int LossMark::Flush() {
  const int error = Layer::Flush();
  if (error != 0) Mark(error);
  return error;
}

void LossMark::Mark(int error) {
  const std::lock_guard lock(mutex_);
  if (found_.header.lost_error != 0) return;
  MarkLost(lock_fd(), found_, error);
}

}  // namespace nbdinetd
