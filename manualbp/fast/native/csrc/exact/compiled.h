// A node inside compiled autograd: its backward becomes part of one graph of the backward pass.
#pragma once
#include <torch/csrc/dynamo/compiled_autograd.h>

#include "node.h"

namespace manualbp::exact {

// What a node is beside its tensors, as numbers: PyTorch traces functions of tensors and constants.
struct Constants {
  std::vector<int64_t> ints;
  std::vector<double> doubles;
};

// (gradients of the outputs, what was saved, constants) -> gradients, one per edge.
using Traced = torch::autograd::variable_list (*)(const Tensors& grads, Tensors kept,
                                                  const Constants& constants);

void collect(const SavingNode& node, const Constants& constants,
             torch::autograd::CompiledNodeArgs& args);

template <Traced function>
torch::autograd::variable_list unpacked_and_run(const torch::autograd::variable_list& grads,
                                                const std::vector<at::IValue>& args) {
  torch::dynamo::autograd::PackedArgs packed(args);
  const auto there = packed.unpack<torch::autograd::variable_list>();
  const auto which = packed.unpack<std::vector<int64_t>>();
  Constants constants;
  constants.ints = packed.unpack<std::vector<int64_t>>();
  constants.doubles = packed.unpack<std::vector<double>>();
  Tensors kept;
  auto next = there.begin();
  for (const auto is_there : which) kept.push_back(is_there ? *next++ : at::Tensor());
  return function(grads, std::move(kept), constants);
}

using Packed = torch::autograd::variable_list (*)(const torch::autograd::variable_list&,
                                                  const std::vector<at::IValue>&);

// As a traced call of ``function``, which is ``unpacked_and_run`` of something.
torch::autograd::variable_list trace(SavingNode& node, const Constants& constants, Packed function,
                                     const torch::autograd::variable_list& grads,
                                     torch::dynamo::autograd::SwapSavedVariables& swap);

}  // namespace manualbp::exact
