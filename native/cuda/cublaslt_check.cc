// Compares the declarations of cublaslt.h with NVIDIA's header, where there is one. Makes no code.
#if __has_include(<cublasLt.h>)

#include <cublasLt.h>

#include <cstddef>
#include <tuple>
#include <type_traits>

#include "cuda/cublaslt.h"

namespace kadenz::cuda {
namespace {

static_assert(lt::kSuccess == CUBLAS_STATUS_SUCCESS && lt::kNotSupported == CUBLAS_STATUS_NOT_SUPPORTED);
static_assert(lt::kCompute32F == CUBLAS_COMPUTE_32F && lt::kTransposed == CUBLAS_OP_T);
static_assert(lt::kFloat32 == CUDA_R_32F && lt::kFloat16 == CUDA_R_16F && lt::kBFloat16 == CUDA_R_16BF);
static_assert(lt::kTransposeA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(lt::kBatchCount == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
static_assert(lt::kStridedBatchOffset == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
static_assert(lt::kMostWorkspaceBytes == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(lt::kReductionSchemeMask == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(lt::kMinAlignmentA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(lt::kMinAlignmentB == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(lt::kMinAlignmentC == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(lt::kMinAlignmentD == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(lt::kReductionNone == CUBLASLT_REDUCTION_SCHEME_NONE);
static_assert(lt::kReductionAny == CUBLASLT_REDUCTION_SCHEME_MASK);
static_assert(lt::kConfigId == CUBLASLT_ALGO_CONFIG_ID && lt::kConfigTile == CUBLASLT_ALGO_CONFIG_TILE_ID);
static_assert(lt::kConfigSplitK == CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
static_assert(lt::kConfigReduction == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
static_assert(lt::kConfigStages == CUBLASLT_ALGO_CONFIG_STAGES_ID);
static_assert(lt::kConfigCluster == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID);

static_assert(sizeof(lt::AlgorithmData) == sizeof(cublasLtMatmulAlgo_t));
static_assert(alignof(lt::AlgorithmData) == alignof(cublasLtMatmulAlgo_t));
static_assert(sizeof(lt::HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(lt::HeuristicResult, algorithm) == offsetof(cublasLtMatmulHeuristicResult_t, algo));
static_assert(offsetof(lt::HeuristicResult, workspace_bytes) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(lt::HeuristicResult, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(offsetof(lt::HeuristicResult, waves) == offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

// Two signatures agree when their results and parameters, one by one, travel
// alike: both pointers, or both integers (or enumerations) of one size.
template <class T>
constexpr int kind_of = std::is_pointer_v<T>                           ? 1
                        : (std::is_integral_v<T> || std::is_enum_v<T>) ? 2
                                                                       : 0;

template <class Ours, class Theirs>
constexpr bool alike =
    kind_of<Ours> != 0 && kind_of<Ours> == kind_of<Theirs> && sizeof(Ours) == sizeof(Theirs);

template <class Ours, class Theirs>
struct Agrees : std::false_type {};

template <class R, class... P, class S, class... Q>
struct Agrees<R (*)(P...), S (*)(Q...)> {
  static constexpr bool all() {
    if constexpr (sizeof...(P) != sizeof...(Q)) {
      return false;
    } else {
      return alike<R, S> && (alike<P, Q> && ...);
    }
  }
  static constexpr bool value = all();
};

#define KADENZ_SAME_SIGNATURE(member, function) \
  static_assert(Agrees<decltype(CublasLt::member), decltype(&function)>::value)

KADENZ_SAME_SIGNATURE(get_version, cublasLtGetVersion);
KADENZ_SAME_SIGNATURE(create, cublasLtCreate);
KADENZ_SAME_SIGNATURE(destroy, cublasLtDestroy);
KADENZ_SAME_SIGNATURE(description_create, cublasLtMatmulDescCreate);
KADENZ_SAME_SIGNATURE(description_destroy, cublasLtMatmulDescDestroy);
KADENZ_SAME_SIGNATURE(description_set, cublasLtMatmulDescSetAttribute);
KADENZ_SAME_SIGNATURE(layout_create, cublasLtMatrixLayoutCreate);
KADENZ_SAME_SIGNATURE(layout_destroy, cublasLtMatrixLayoutDestroy);
KADENZ_SAME_SIGNATURE(layout_set, cublasLtMatrixLayoutSetAttribute);
KADENZ_SAME_SIGNATURE(preference_create, cublasLtMatmulPreferenceCreate);
KADENZ_SAME_SIGNATURE(preference_destroy, cublasLtMatmulPreferenceDestroy);
KADENZ_SAME_SIGNATURE(preference_set, cublasLtMatmulPreferenceSetAttribute);
KADENZ_SAME_SIGNATURE(heuristic, cublasLtMatmulAlgoGetHeuristic);
KADENZ_SAME_SIGNATURE(algorithm_check, cublasLtMatmulAlgoCheck);
KADENZ_SAME_SIGNATURE(algorithm_get, cublasLtMatmulAlgoConfigGetAttribute);
KADENZ_SAME_SIGNATURE(matmul, cublasLtMatmul);

}  // namespace
}  // namespace kadenz::cuda

#endif
