// Deformable attention on the CPU, forward and backward: the table of one copy of the kernels.
//
// Compiled once for each instruction set, with DDETR_KERNELS naming the function that returns this copy. Only this file
// and headers whose functions are its own are compiled so; no template of the standard library is used in them.

#include "backward.h"

#ifndef DDETR_KERNELS
#define DDETR_KERNELS baseline_kernels
#endif

namespace ddetr {
namespace {

// Calls `run` with a number of the element type.
template <typename Run>
void by_element(Element element, const Run& run) {
  switch (element) {
    case Element::Float64:
      return run(double{});
    case Element::Float32:
      return run(float{});
    case Element::Float16:
      return run(Half{});
    case Element::BFloat16:
      return run(BFloat16{});
  }
}

template <template <typename> class Source>
void forward_as(const Problem& problem, Element element, const Work& work, const Maps& value, const Inputs& inputs,
                void* output, void* scratch, int64_t begin, int64_t end) {
  by_element(element, [&]<typename T>(T) {
    forward_units<Source, T>(problem, work, value, inputs, output, scratch, begin, end);
  });
}

template <template <typename> class Source>
void backward_as(const Problem& problem, Element element, const Work& work, const Maps& value, const Inputs& inputs,
                 const void* grad_output, void* grad_value, void* scratch, int64_t begin, int64_t end) {
  by_element(element, [&]<typename T>(T) {
    backward_units<Source, T>(problem, work, value, inputs, grad_output, grad_value, scratch, begin, end);
  });
}

void forward(const Problem& problem, Element element, const Work& work, const Maps& value, const Inputs& inputs,
             void* output, void* scratch, int64_t begin, int64_t end) {
  const auto run = inputs.reference ? forward_as<FusedSource> : forward_as<GivenSource>;
  run(problem, element, work, value, inputs, output, scratch, begin, end);
}

void backward(const Problem& problem, Element element, const Work& work, const Maps& value, const Inputs& inputs,
              const void* grad_output, void* grad_value, void* scratch, int64_t begin, int64_t end) {
  const auto run = inputs.reference ? backward_as<FusedSource> : backward_as<GivenSource>;
  run(problem, element, work, value, inputs, grad_output, grad_value, scratch, begin, end);
}

}  // namespace

const Kernels& DDETR_KERNELS() {
  static constexpr Kernels kernels{forward, backward};
  return kernels;
}

}  // namespace ddetr
