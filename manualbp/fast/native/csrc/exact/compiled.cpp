#include "compiled.h"

#include "cost.h"
#include "exact.h"

namespace manualbp::exact {

using at::Tensor;
using torch::autograd::variable_list;
namespace dynamo = torch::dynamo::autograd;
using Ints = std::vector<int64_t>;

void collect(const SavingNode& node, const Constants& constants,
             torch::autograd::CompiledNodeArgs& args) {
  args.collect(node.name());
  args.collect(node.saved, true);
  args.collect(constants.ints);
  args.collect(constants.doubles);
}

variable_list trace(SavingNode& node, const Constants& constants, Packed function,
                    const variable_list& grads, dynamo::SwapSavedVariables& swap) {
  swap.before(node.saved);
  variable_list there;
  Ints which;
  for (const auto& each : node.saved) {
    const Tensor tensor = each.unpack(node.getptr());
    which.push_back(tensor.defined());
    if (tensor.defined()) there.push_back(tensor);
  }
  dynamo::PackedArgs packed;
  packed.pack(there);
  packed.pack(which);
  packed.pack(constants.ints);
  packed.pack(constants.doubles);
  const auto args = std::move(packed).vec();

  std::vector<at::TypePtr> schema;
  for (const auto& arg : args) {
    schema.push_back(arg.isTensor() ? at::TypePtr(at::TensorType::get()) : arg.type());
  }
  const auto& compiler = dynamo::getPyCompilerInterface();
  const auto name = compiler->bind_function(swap.get_py_compiler(), node.name(), function, schema,
                                            /*is_custom_function=*/true, /*is_traceable=*/true);
  const auto metadata =
      dynamo::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
          dynamo::get_input_metadata(node.next_edges()));
  auto found = compiler->call_function(swap.get_py_compiler(), "apply_functional", name, grads,
                                       args, metadata);
  swap.after(node.saved);
  return found;
}

namespace {

// The chain: residual, how many are present, present, then, how many are hidden, hidden, layers.
Constants constants_of(const ExactNode& node) {
  Constants found;
  auto& ints = found.ints;
  ints = {node.residual, static_cast<int64_t>(node.present.size())};
  ints.insert(ints.end(), node.present.begin(), node.present.end());
  ints.insert(ints.end(), node.then.begin(), node.then.end());
  ints.push_back(static_cast<int64_t>(node.hidden.size()));
  ints.insert(ints.end(), node.hidden.begin(), node.hidden.end());
  for (const auto& layer : node.chain->layers) {
    ints.insert(ints.end(), {layer.linear, layer.h_column_major, layer.w_column_major,
                             static_cast<int64_t>(layer.f.kind), layer.in_place});
    found.doubles.insert(found.doubles.end(), {layer.f.p, layer.f.q});
  }
  return found;
}

variable_list traced_chain(const Tensors& incoming, Tensors kept, const Constants& constants) {
  const int64_t* at = constants.ints.data();
  const int64_t* end = at + constants.ints.size();
  const double* number = constants.doubles.data();
  const bool residual = *at++;
  const int64_t count = *at++;
  const Wants present(at, at + count), wants(at + count, at + 2 * count);
  at += 2 * count;
  const std::vector<int> hidden(at + 1, at + 1 + *at);
  Layers layers;
  for (at += 1 + *at; at < end; at += 5, number += 2) {
    const Activation f{static_cast<F>(at[3]), number[0], number[1]};
    layers.push_back({at[0] != 0, at[1] != 0, at[2] != 0, f, at[4] != 0});
  }
  Tensors grads = incoming;
  const Tensor for_skip = residual && wants.back() ? grads[0] : Tensor();
  const Tensors injected = injected_at(layers.size(), hidden, grads);
  Tensors found = backward(layers, needs_of(layers, wants), grads[0], kept, injected, false);
  return by_edge(residual, present, for_skip, found);
}

// The loss: kind, reduction, ignore_index, whether it has each of its weights.
Constants constants_of(const CostNode& node) {
  const auto& loss = node.loss;
  return {{static_cast<int64_t>(loss.kind), loss.reduction, loss.ignore_index,
           loss.weight.defined(), loss.pos_weight.defined()},
          {loss.p}};
}

variable_list traced_cost(const Tensors& grads, Tensors kept, const Constants& constants) {
  const auto& ints = constants.ints;
  Loss loss{static_cast<Errors>(ints[0]), ints[1], constants.doubles[0], ints[2], {}, {}, {}};
  const size_t weights = ints[3] + ints[4];
  if (ints[3]) loss.weight = kept[kept.size() - weights];
  if (ints[4]) loss.pos_weight = kept.back();
  variable_list found(2 + weights);
  found[0] = gradient(loss, grads, kept);
  return found;
}

}  // namespace

void ExactNode::compiled_args(torch::autograd::CompiledNodeArgs& args) const {
  collect(*this, constants_of(*this), args);
}

variable_list ExactNode::apply_with_saved(const variable_list& grads,
                                          dynamo::SwapSavedVariables& swap) {
  return trace(*this, constants_of(*this), unpacked_and_run<traced_chain>, grads, swap);
}

void CostNode::compiled_args(torch::autograd::CompiledNodeArgs& args) const {
  collect(*this, constants_of(*this), args);
}

variable_list CostNode::apply_with_saved(const variable_list& grads,
                                         dynamo::SwapSavedVariables& swap) {
  return trace(*this, constants_of(*this), unpacked_and_run<traced_cost>, grads, swap);
}

}  // namespace manualbp::exact
