// A regular file as an export.
#ifndef NBDINETD_EXPORT_FILE_H_
#define NBDINETD_EXPORT_FILE_H_

#include "export/export.h"

namespace nbdinetd {

class FileExport : public Export {
 public:
  // `st` is what fstat() said of `fd`.
  static std::unique_ptr<Export> Create(const std::string& path, UniqueFd fd,
                                        const struct stat& st, bool read_only,
                                        Sharing sharing = Sharing::kOwn);

  int Trim(uint64_t offset, uint64_t length) override;
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed) override;

 private:
  using Export::Export;

  // fallocate(), where EOPNOTSUPP also says that the range isn't one that the
  // call could make read as zeroes.
  int Allocate(int mode, uint64_t offset, uint64_t length);
  int PunchHole(uint64_t offset, uint64_t length);
  int ZeroAllocated(uint64_t offset, uint64_t length);
  // EOPNOTSUPP where the file system has no call for it; nothing has changed
  // then.
  int ZeroWhole(Range whole, Hole hole);
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_FILE_H_
