// The properties of units, as the service manager sends them.
#ifndef NBDINETD_CTL_PROPERTIES_H_
#define NBDINETD_CTL_PROPERTIES_H_

#include <systemd/sd-bus.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace nbdinetd::ctl {

struct UnrefMessage {
  void operator()(sd_bus_message* message) const {
    sd_bus_message_unref(message);
  }
};
using Message = std::unique_ptr<sd_bus_message, UnrefMessage>;

// The value of a property. Types that no export needs aren't read.
using StringPairs = std::vector<std::pair<std::string, std::string>>;
using StringLists = std::vector<std::vector<std::string>>;
using PropertyValue =
    std::variant<bool, uint64_t, std::string, std::vector<std::string>,
                 StringPairs, StringLists>;

// The properties of one interface of one unit.
class Properties {
 public:
  explicit Properties(std::map<std::string, PropertyValue> values)
      : values_(std::move(values)) {}

  // The value of the property, or an empty one if the manager has none.
  template <typename T>
  T Get(const std::string& name) const {
    const auto found = values_.find(name);
    if (found == values_.end()) return T();
    const T* value = std::get_if<T>(&found->second);
    return value == nullptr ? T() : *value;
  }

 private:
  std::map<std::string, PropertyValue> values_;
};

// Reads a number of the type 't', 'u' or 'i', or a truth value, 'b'.
uint64_t ReadNumber(sd_bus_message* message, char type);

// Reads a{sv}, the reply to GetAll().
Properties ReadProperties(sd_bus_message* message);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_PROPERTIES_H_
