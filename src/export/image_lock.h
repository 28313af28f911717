// The locks by which QEMU's programs agree on who uses an image ("Image
// locking" in qemu(1)).
//
// They are open file description locks on single bytes: byte 100 + N for each
// permission N that a program uses, and 200 + N for each that it grants to
// nobody else; N = 0 is reading, 1 is writing. All of them are read locks, and
// exclude nobody: a program locks its bytes, and then looks whether others have
// locked the opposite ones. Of two programs that begin at the same time, at
// least one therefore sees the other. The kernel releases them with the last
// reference to the description, as those of ExclusiveLock.
//
// Connections of nbdinetd grant each other everything: they use reading and
// writing, and lock no byte from 200 on. A virtual machine that may write, and
// shares that with nobody, sees that an export is written to, and doesn't
// start. One more byte, near those of ExclusiveLock, tells nbdinetd --check
// that it is a connection of nbdinetd that uses an image.
//
// System calls: fcntl (F_OFD_SETLK, F_OFD_GETLK). Threads: any.
#ifndef NBDINETD_EXPORT_IMAGE_LOCK_H_
#define NBDINETD_EXPORT_IMAGE_LOCK_H_

#include "export/export.h"

namespace nbdinetd {

// What others than nbdinetd do with an image, as their locks say.
struct ImageUse {
  bool is_used = false;
  bool is_written_to = false;
  bool forbids_writing = false;  // to everybody else
};
// Of the file or device at `fd`. Nothing is used where the kernel or the file
// system has no such locks.
ImageUse ImageUseOf(int fd);

// Locks the image of an export that can be written to, until the export is
// destroyed, and returns true; false, and nothing is locked, if another program
// forbids writing to it. Locks nothing, and only looks, if the open file
// description is shared: the locks would be those of whoever handed it over,
// and would outlast the connection. Where there are no such locks, nobody
// forbids anything.
bool LockImage(const Export& target);

// Locks the image at `fd` as a program that shares it with nobody, until its
// description is closed. False, and nothing is locked, if others use it.
bool LockImageAlone(int fd);

// Whether a connection of nbdinetd may write to the file at `fd`.
bool IsServedForWriting(int fd);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_IMAGE_LOCK_H_
