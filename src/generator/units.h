// The units of exports.
//
// Each export has nbdinetd-NAME.socket, and either nbdinetd-NAME@.service
// (Mode=connection) with system-nbdinetd-NAME.slice around its instances, or
// nbdinetd-NAME.service (Mode=listener). They are the shipped units with the
// export's settings in place of /etc/default; the settings of [Unit], [Socket]
// and [Service] come last.
#ifndef NBDINETD_GENERATOR_UNITS_H_
#define NBDINETD_GENERATOR_UNITS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "generator/careful_look.h"
#include "generator/export_definition.h"
#include "generator/export_file.h"
#include "generator/unit_text.h"

namespace nbdinetd {

struct UnitFile {
  std::string name;
  std::string text;
};

// A symbolic link, such as sockets.target.wants/nbdinetd-golden.socket.
struct UnitLink {
  std::string name;
  std::string target;
};

struct ExportUnits {
  std::vector<UnitFile> files;  // each needs only those behind it
  std::vector<UnitLink> links;
};

// Makes the units of one export after the other. Threads: any.
class UnitMaker {
 public:
  explicit UnitMaker(ManagerScope scope, CarefulLook look = CarefulLook());

  // InvalidArgument: a setting of [Install].
  absl::StatusOr<ExportUnits> Make(const ExportDefinition& definition) const;

  // A file or directory that the service uses.
  struct Place {
    std::string path;
    bool is_written_to;
    bool is_directory;
  };

 private:
  std::string SocketText(const ExportDefinition& definition) const;
  std::string ServiceText(const ExportDefinition& definition) const;
  bool HasSlice(const ExportDefinition& definition) const;
  void AddPolicy(const ExportDefinition& definition,
                 UnitChanges& changes) const;
  std::string SliceText(const ExportDefinition& definition) const;
  std::string Command(const ExportDefinition& definition,
                      const ShippedUnit& shipped) const;
  void AddTls(const ExportDefinition& definition, UnitChanges& changes) const;
  void AddDevices(const ExportDefinition& definition,
                  const std::string& section, UnitChanges& changes) const;
  void AddVisiblePath(const Place& place, UnitChanges& changes) const;
  void AddCopies(const ExportDefinition& definition,
                 UnitChanges& changes) const;
  bool HasCredentials(const ExportDefinition& definition) const;

  const ManagerScope scope_;
  const CarefulLook look_;
  const ShippedUnit connection_socket_, connection_service_, connection_slice_;
  const ShippedUnit listener_socket_, listener_service_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_UNITS_H_
