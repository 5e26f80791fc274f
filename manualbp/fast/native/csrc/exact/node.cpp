#include "node.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include <mutex>

namespace manualbp::exact {

using c10::DispatchKey;

Tensors SavingNode::unpacked() {
  std::lock_guard<std::mutex> lock(mutex_);
  Tensors found;
  found.reserve(saved.size());
  const auto self = getptr();
  for (const auto& each : saved) found.push_back(each.unpack(self));
  if (!torch::autograd::get_current_graph_task_keep_graph()) {
    for (auto& each : saved) each.reset_data();
  }
  return found;
}

void SavingNode::release_variables() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& each : saved) each.reset_data();
}

bool transforms_active() {
  for (const auto key : {DispatchKey::FuncTorchDynamicLayerFrontMode, DispatchKey::VmapMode,
                         DispatchKey::FuncTorchVmapMode, DispatchKey::Functionalize}) {
    if (c10::impl::tls_is_dispatch_key_included(key)) return true;
  }
  return false;
}

bool plain(const Tensors& tensors) {
  constexpr c10::DispatchKeySet odd{DispatchKey::Python, DispatchKey::Functionalize,
                                    DispatchKey::Batched, DispatchKey::FuncTorchBatched,
                                    DispatchKey::FuncTorchGradWrapper};
  for (const auto& tensor : tensors) {
    if (!tensor.defined()) continue;
    if (tensor.layout() != at::kStrided || tensor.is_nested()) return false;
    if (!(tensor.key_set() & odd).empty()) return false;
  }
  return true;
}

}  // namespace manualbp::exact
