// Hopper's warpgroup matrix instruction m64nNk16, A and B from shared memory in 128-byte swizzle, in the
// widths that the tiles use. Sums stay in the registers of a warpgroup: value 4 j + i of a thread is row lane
// / 4 + 8 (i / 2) of its warp's 16, column 8 j + 2 (lane % 4) + i % 2.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace kadenz::cuda::gemm_unit {

__device__ __forceinline__ void begin_matrix() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_matrix() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_for_matrix() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Behind the last wait: keeps the compiler from reading sums before it, which they don't visibly depend on.
template <int kCount>
__device__ __forceinline__ void settle_sums(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// Rows of 128 bytes, 8 of which make one swizzled unit of 1,024 bytes, one behind the other.
__device__ __forceinline__ uint64_t describe_tile(uint32_t shared_address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kUnitStride = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kUnusedStride = uint64_t{1} << 16;
  return kSwizzle128 | kUnitStride | kUnusedStride | ((shared_address & 0x3FFFF) >> 4);
}

// The registers of one instruction by width: their numbers, and their operands.
#define KADENZ_NUMBERS_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define KADENZ_NUMBERS_8 "%8, %9, %10, %11, %12, %13, %14, %15"
#define KADENZ_NUMBERS_16 "%16, %17, %18, %19, %20, %21, %22, %23"
#define KADENZ_NUMBERS_24 "%24, %25, %26, %27, %28, %29, %30, %31"
#define KADENZ_NUMBERS_32 "%32, %33, %34, %35, %36, %37, %38, %39"
#define KADENZ_NUMBERS_40 "%40, %41, %42, %43, %44, %45, %46, %47"
#define KADENZ_NUMBERS_48 "%48, %49, %50, %51, %52, %53, %54, %55"
#define KADENZ_NUMBERS_56 "%56, %57, %58, %59, %60, %61, %62, %63"
#define KADENZ_NUMBERS_64 "%64, %65, %66, %67, %68, %69, %70, %71"
#define KADENZ_NUMBERS_72 "%72, %73, %74, %75, %76, %77, %78, %79"
#define KADENZ_NUMBERS_80 "%80, %81, %82, %83, %84, %85, %86, %87"
#define KADENZ_NUMBERS_88 "%88, %89, %90, %91, %92, %93, %94, %95"
#define KADENZ_EIGHT(a, i)                                                                                \
  "+f"((a)[i]), "+f"((a)[i + 1]), "+f"((a)[i + 2]), "+f"((a)[i + 3]), "+f"((a)[i + 4]), "+f"((a)[i + 5]), \
      "+f"((a)[i + 6]), "+f"((a)[i + 7])
#define KADENZ_FOUR(a, i) "+f"((a)[i]), "+f"((a)[i + 1]), "+f"((a)[i + 2]), "+f"((a)[i + 3])
#define KADENZ_LIST_16 KADENZ_NUMBERS_0
#define KADENZ_OPERANDS_16(a) KADENZ_EIGHT(a, 0)
#define KADENZ_LIST_24 KADENZ_LIST_16 ", %8, %9, %10, %11"
#define KADENZ_OPERANDS_24(a) KADENZ_OPERANDS_16(a), KADENZ_FOUR(a, 8)
#define KADENZ_LIST_32 KADENZ_LIST_16 ", " KADENZ_NUMBERS_8
#define KADENZ_OPERANDS_32(a) KADENZ_OPERANDS_16(a), KADENZ_EIGHT(a, 8)
#define KADENZ_LIST_40 KADENZ_LIST_32 ", %16, %17, %18, %19"
#define KADENZ_OPERANDS_40(a) KADENZ_OPERANDS_32(a), KADENZ_FOUR(a, 16)
#define KADENZ_LIST_48 KADENZ_LIST_32 ", " KADENZ_NUMBERS_16
#define KADENZ_OPERANDS_48(a) KADENZ_OPERANDS_32(a), KADENZ_EIGHT(a, 16)
#define KADENZ_LIST_56 KADENZ_LIST_48 ", %24, %25, %26, %27"
#define KADENZ_OPERANDS_56(a) KADENZ_OPERANDS_48(a), KADENZ_FOUR(a, 24)
#define KADENZ_LIST_64 KADENZ_LIST_48 ", " KADENZ_NUMBERS_24
#define KADENZ_OPERANDS_64(a) KADENZ_OPERANDS_48(a), KADENZ_EIGHT(a, 24)
#define KADENZ_LIST_72 KADENZ_LIST_64 ", %32, %33, %34, %35"
#define KADENZ_OPERANDS_72(a) KADENZ_OPERANDS_64(a), KADENZ_FOUR(a, 32)
#define KADENZ_LIST_80 KADENZ_LIST_64 ", " KADENZ_NUMBERS_32
#define KADENZ_OPERANDS_80(a) KADENZ_OPERANDS_64(a), KADENZ_EIGHT(a, 32)
#define KADENZ_LIST_96 KADENZ_LIST_80 ", " KADENZ_NUMBERS_40
#define KADENZ_OPERANDS_96(a) KADENZ_OPERANDS_80(a), KADENZ_EIGHT(a, 40)
#define KADENZ_LIST_112 KADENZ_LIST_96 ", " KADENZ_NUMBERS_48
#define KADENZ_OPERANDS_112(a) KADENZ_OPERANDS_96(a), KADENZ_EIGHT(a, 48)
#define KADENZ_LIST_128 KADENZ_LIST_112 ", " KADENZ_NUMBERS_56
#define KADENZ_OPERANDS_128(a) KADENZ_OPERANDS_112(a), KADENZ_EIGHT(a, 56)
#define KADENZ_LIST_136 KADENZ_LIST_128 ", %64, %65, %66, %67"
#define KADENZ_OPERANDS_136(a) KADENZ_OPERANDS_128(a), KADENZ_FOUR(a, 64)
#define KADENZ_LIST_144 KADENZ_LIST_128 ", " KADENZ_NUMBERS_64
#define KADENZ_OPERANDS_144(a) KADENZ_OPERANDS_128(a), KADENZ_EIGHT(a, 64)
#define KADENZ_LIST_192 KADENZ_LIST_144 ", " KADENZ_NUMBERS_72 ", " KADENZ_NUMBERS_80 ", " KADENZ_NUMBERS_88
#define KADENZ_OPERANDS_192(a) \
  KADENZ_OPERANDS_144(a), KADENZ_EIGHT(a, 72), KADENZ_EIGHT(a, 80), KADENZ_EIGHT(a, 88)
#define KADENZ_MATRIX(N, TYPE, A, B, ADD)                                                           \
  asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %" #ADD                                      \
               ", 0;\n"                                                                             \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" KADENZ_LIST_##N \
               "}, %" #A ", %" #B ", more, 1, 1, 0, 0;\n}"                                          \
               : KADENZ_OPERANDS_##N(sums)                                                          \
               : "l"(a), "l"(b), "r"(add))
#define KADENZ_WIDTH(N, A, B, ADD)                    \
  if constexpr (kColumns == N) {                      \
    if constexpr (std::is_same_v<T, __nv_bfloat16>) { \
      KADENZ_MATRIX(N, "bf16", A, B, ADD);            \
    } else {                                          \
      KADENZ_MATRIX(N, "f16", A, B, ADD);             \
    }                                                 \
  }

// sums (+)= A B^T over 16 inputs; add 0: = A B^T.
template <class T, int kColumns>
__device__ __forceinline__ void multiply(float (&sums)[kColumns / 2], uint64_t a, uint64_t b, uint32_t add) {
  KADENZ_WIDTH(16, 8, 9, 10)
  KADENZ_WIDTH(24, 12, 13, 14)
  KADENZ_WIDTH(32, 16, 17, 18)
  KADENZ_WIDTH(40, 20, 21, 22)
  KADENZ_WIDTH(48, 24, 25, 26)
  KADENZ_WIDTH(56, 28, 29, 30)
  KADENZ_WIDTH(64, 32, 33, 34)
  KADENZ_WIDTH(72, 36, 37, 38)
  KADENZ_WIDTH(80, 40, 41, 42)
  KADENZ_WIDTH(96, 48, 49, 50)
  KADENZ_WIDTH(112, 56, 57, 58)
  KADENZ_WIDTH(128, 64, 65, 66)
  KADENZ_WIDTH(136, 68, 69, 70)
  KADENZ_WIDTH(144, 72, 73, 74)
  KADENZ_WIDTH(192, 96, 97, 98)
}

#undef KADENZ_WIDTH
#undef KADENZ_MATRIX

}  // namespace kadenz::cuda::gemm_unit
