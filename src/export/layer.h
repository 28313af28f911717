// What the layers on an export have in common: whatever isn't about a range is
// that of the export below. Threads: see Export.
#ifndef NBDINETD_EXPORT_LAYER_H_
#define NBDINETD_EXPORT_LAYER_H_

#include <memory>
#include <utility>

#include "export/export.h"

namespace nbdinetd {

class Layer : public Export {
 public:
  int lock_fd() const override { return base_->lock_fd(); }
  bool lock_fd_is_read_only() const override {
    return base_->lock_fd_is_read_only();
  }
  bool writes_busy() const override { return base_->writes_busy(); }
  int Flush() override { return base_->Flush(); }
  bool finding_extents_may_sync() const override {
    return base_->finding_extents_may_sync();
  }

 protected:
  // On `base`, whose path it has. Others may use `base` as well: the catalog
  // keeps a share of an export that is open from the start.
  Layer(std::shared_ptr<Export> base, Facts facts)
      : Export(base->path(), facts), base_(std::move(base)) {}

  Export& base() const { return *base_; }

 private:
  const std::shared_ptr<Export> base_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_LAYER_H_
