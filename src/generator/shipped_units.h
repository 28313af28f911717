// The shipped units, as part of this program: the generated units have the same
// settings. They are made from units/ when the program is built.
#ifndef NBDINETD_GENERATOR_SHIPPED_UNITS_H_
#define NBDINETD_GENERATOR_SHIPPED_UNITS_H_

namespace nbdinetd {

extern const char kConnectionSocket[];   // nbdinetd.socket
extern const char kConnectionService[];  // nbdinetd@.service
extern const char kConnectionSlice[];    // system-nbdinetd.slice
extern const char kListenerSocket[];     // nbdinetd-listen.socket
extern const char kListenerService[];    // nbdinetd-listen.service

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_SHIPPED_UNITS_H_
