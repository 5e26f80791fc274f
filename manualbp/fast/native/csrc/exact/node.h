// What the nodes of this library share: how they save, look around, and hand over to Python.
//
// A node is to C++ what a torch.autograd.Function is to Python. `apply` is its backward: it gets a
// gradient for each output and returns one for each edge. Edges lead to the nodes of the inputs;
// `set_history(o, node)` makes o an output of the node. SavedVariable is save_for_backward.
#pragma once
#include <c10/core/SafePyObject.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <memory>
#include <type_traits>
#include <vector>

namespace manualbp::exact {

using Tensors = std::vector<at::Tensor>;
using Wants = std::vector<bool>;

// A Python object that a node holds. Its last reference may go in a thread without the GIL.
using Held = std::shared_ptr<c10::SafePyObject>;

// A node with saved tensors: freed after a pass that does not keep the graph, like autograd's own.
struct SavingNode : torch::autograd::Node {
  void save(const at::Tensor& tensor, bool is_output) { saved.emplace_back(tensor, is_output); }

  // Raises autograd's error where they were freed, or edited in place. Where the graph is not kept,
  // the node lets go of them.
  Tensors unpacked();

  void release_variables() override;
  // PyTorch's own check of what a pass may ask this node for: one per edge.
  bool asked(size_t edge) const { return task_should_compute_output(edge); }

  std::vector<torch::autograd::SavedVariable> saved;
};

// A new node, as PyTorch holds it: by a c10::intrusive_ptr since 2.13, before by a std::shared_ptr.
template <class T>
auto new_node() {
  using Pointer = decltype(std::declval<T&>().getptr());
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return std::shared_ptr<T>(new T, [](T* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<T>();
  }
}

// Whether a tensor is one plain tensor, and no transform is at work: what backward runs on in C++.
bool plain(const Tensors& tensors);
bool transforms_active();

}  // namespace manualbp::exact
