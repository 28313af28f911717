// Looks at files without waiting for anybody.
//
// The service manager waits for its generators. A path that leads to an
// automount point would make a generator wait for the manager, and one on a
// file system of the network for a server that may be down. CarefulLook
// therefore follows a path part by part, and stops at such mounts. It also
// stops at links of other users than root and its own, which could lead to what
// only root may open.
#ifndef NBDINETD_GENERATOR_CAREFUL_LOOK_H_
#define NBDINETD_GENERATOR_CAREFUL_LOOK_H_

#include <sys/stat.h>

#include <set>
#include <string>

namespace nbdinetd {

class CarefulLook {
 public:
  // Reads the table of mounts. Without one (no /proc), every mount counts as a
  // local one.
  explicit CarefulLook(const std::string& mountinfo = "/proc/self/mountinfo");

  struct Seen {
    enum class What { kFound, kMissing, kUnknown };
    What what = What::kUnknown;
    // The path without the links that were followed. It begins with /dev/ as
    // soon as one of them leads there: no link in /dev is followed. With
    // kUnknown, it ends with the part where looking has stopped, and the rest.
    std::string path;
    struct stat status = {};  // with kFound
  };

  // Looks at an absolute path.
  Seen At(const std::string& path) const;

 private:
  // Mount points of file systems that may make a process wait.
  std::set<std::string> slow_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_CAREFUL_LOOK_H_
