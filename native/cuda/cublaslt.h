// cuBLASLt behind declarations of our own: the library is opened at run time, so that this host is built
// where only nvcc is and loads where the library is not. Only what the matmuls call is declared;
// cublaslt_check.cc compares every value, size and signature below with the real header where there is one.
//
// Once opened, the library is never closed: kernels of it may be under way until the process ends.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace kadenz::cuda {

namespace lt {

using Handle = void*;
using MatmulDescription = void*;
using MatrixLayout = void*;
using Preference = void*;
using Status = int32_t;

inline constexpr Status kSuccess = 0;
inline constexpr Status kNotSupported = 15;

inline constexpr int32_t kCompute32F = 68;
inline constexpr int32_t kTransposed = 1;

// cudaDataType_t
inline constexpr int32_t kFloat32 = 0;
inline constexpr int32_t kFloat16 = 2;
inline constexpr int32_t kBFloat16 = 14;

// Attributes of a matmul description
inline constexpr int32_t kTransposeA = 3;  // int32

// Attributes of a layout
inline constexpr int32_t kBatchCount = 5;          // int32
inline constexpr int32_t kStridedBatchOffset = 6;  // int64, in elements

// Attributes of a preference
inline constexpr int32_t kMostWorkspaceBytes = 1;   // uint64
inline constexpr int32_t kReductionSchemeMask = 3;  // uint32
inline constexpr int32_t kMinAlignmentA = 5;        // uint32, bytes; then B, C, D
inline constexpr int32_t kMinAlignmentB = 6;
inline constexpr int32_t kMinAlignmentC = 7;
inline constexpr int32_t kMinAlignmentD = 8;
inline constexpr uint32_t kReductionNone = 0;
inline constexpr uint32_t kReductionAny = 7;

// Attributes of an algorithm
inline constexpr int32_t kConfigId = 0;         // int32
inline constexpr int32_t kConfigTile = 1;       // uint32
inline constexpr int32_t kConfigSplitK = 2;     // int32
inline constexpr int32_t kConfigReduction = 3;  // uint32
inline constexpr int32_t kConfigStages = 6;     // uint32
inline constexpr int32_t kConfigCluster = 8;    // uint16

struct AlgorithmData {
  uint64_t data[8];
};

struct HeuristicResult {
  AlgorithmData algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int32_t reserved[4];
};

}  // namespace lt

struct CublasLt {
  std::string path;    // as it was opened
  size_t version = 0;  // 130100 is 13.1.0

  size_t (*get_version)() = nullptr;
  lt::Status (*create)(lt::Handle*) = nullptr;
  lt::Status (*destroy)(lt::Handle) = nullptr;
  lt::Status (*description_create)(lt::MatmulDescription*, int32_t compute_type,
                                   int32_t scale_type) = nullptr;
  lt::Status (*description_destroy)(lt::MatmulDescription) = nullptr;
  lt::Status (*description_set)(lt::MatmulDescription, int32_t attribute, const void* value,
                                size_t bytes) = nullptr;
  lt::Status (*layout_create)(lt::MatrixLayout*, int32_t type, uint64_t rows, uint64_t columns,
                              int64_t leading_dimension) = nullptr;
  lt::Status (*layout_destroy)(lt::MatrixLayout) = nullptr;
  lt::Status (*layout_set)(lt::MatrixLayout, int32_t attribute, const void* value, size_t bytes) = nullptr;
  lt::Status (*preference_create)(lt::Preference*) = nullptr;
  lt::Status (*preference_destroy)(lt::Preference) = nullptr;
  lt::Status (*preference_set)(lt::Preference, int32_t attribute, const void* value, size_t bytes) = nullptr;
  lt::Status (*heuristic)(lt::Handle, lt::MatmulDescription, lt::MatrixLayout a, lt::MatrixLayout b,
                          lt::MatrixLayout c, lt::MatrixLayout d, lt::Preference, int most,
                          lt::HeuristicResult* results, int* count) = nullptr;
  lt::Status (*algorithm_check)(lt::Handle, lt::MatmulDescription, lt::MatrixLayout a, lt::MatrixLayout b,
                                lt::MatrixLayout c, lt::MatrixLayout d, const lt::AlgorithmData*,
                                lt::HeuristicResult*) = nullptr;
  lt::Status (*algorithm_get)(const lt::AlgorithmData*, int32_t attribute, void* value, size_t bytes,
                              size_t* written) = nullptr;
  lt::Status (*matmul)(lt::Handle, lt::MatmulDescription, const void* alpha, const void* a, lt::MatrixLayout,
                       const void* b, lt::MatrixLayout, const void* beta, const void* c, lt::MatrixLayout,
                       void* d, lt::MatrixLayout, const lt::AlgorithmData*, void* workspace,
                       size_t workspace_bytes, cudaStream_t) = nullptr;
};

// Opens the library named by KADENZ_CUBLASLT if that is set, else the first of the usual names and folders.
// HostError("cublaslt_missing") when none opens or one lacks a function.
CublasLt load_cublaslt();

// HostError("device_error") unless the call succeeded.
void check_lt(lt::Status status, const char* call);

}  // namespace kadenz::cuda
