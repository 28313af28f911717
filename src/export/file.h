// A regular file as an export. Threads: see Export.
#ifndef NBDINETD_EXPORT_FILE_H_
#define NBDINETD_EXPORT_FILE_H_

#include <sys/stat.h>

#include "export/stored_export.h"

namespace nbdinetd {

class FileExport : public StoredExport {
 public:
  // `st` is the result of fstat() on `fd`.
  static std::unique_ptr<StoredExport> Create(const std::string& path,
                                              UniqueFd fd,
                                              const struct stat& st,
                                              const Opening& opening);
  // The same for a file that is deleted when the connection ends.
  static std::unique_ptr<Export> CreateTemporary(const std::string& path,
                                                 UniqueFd fd,
                                                 const struct stat& st);

  int Trim(uint64_t offset, uint64_t length) override;
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override;

 private:
  using StoredExport::StoredExport;

  // Calls fallocate(). EOPNOTSUPP also when the call can't make this range read
  // as zeroes.
  int Allocate(int mode, uint64_t offset, uint64_t length);
  int PunchHole(uint64_t offset, uint64_t length);
  int ZeroAllocated(uint64_t offset, uint64_t length);
  // Whether there is data in whole blocks of the range, or no such block.
  bool HoldsData(Range range, uint64_t block) const;
  // Zeroes a range of whole pages. EOPNOTSUPP: the file system has no call for
  // it; nothing has changed.
  int ZeroWhole(Range whole, Hole hole);
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_FILE_H_
