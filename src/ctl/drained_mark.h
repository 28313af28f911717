// What keeps an export, or this machine, out of service: files that
// `nbdinetctl drain` writes and `undrain` removes.
//
// An export's mark is a drop-in of its unit, whose condition is that it isn't
// there itself: the unit doesn't start, whoever asks for it, also after a
// reboot. That of the machine says so to the agent of a load balancer
// (`probe --agent`). With --runtime, both are in /run. Threads: one.
#ifndef NBDINETD_CTL_DRAINED_MARK_H_
#define NBDINETD_CTL_DRAINED_MARK_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

enum class Lasts { kUntilReboot, kUntilEnded };

// The name of an export's mark in "UNIT.d".
inline constexpr absl::string_view kDrainDropIn = "50-nbdinetctl-drain.conf";

// Marks a unit. `starts`: undrain should start it. A mark that is there says
// so already, and `starts` is added to what it says. PermissionDenied for a
// user who may not write.
absl::Status MarkUnit(const Where& where, const std::string& unit, Lasts lasts,
                      bool starts);
// Removes all marks of a unit. Whether undrain should start it; nullopt if
// there was none.
absl::StatusOr<std::optional<bool>> UnmarkUnit(const Where& where,
                                               const std::string& unit);

absl::Status MarkMachine(const Where& where, Lasts lasts);
absl::Status UnmarkMachine(const Where& where);
// Whether the machine is drained, of the system or, with `user`, of the user.
bool IsMachineMarked(const Where& where);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_DRAINED_MARK_H_
