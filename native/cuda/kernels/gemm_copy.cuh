// Barriers in shared memory and copies of tensor tiles into it, for gemm_kernel.cuh. Shared addresses are
// 32-bit. Hopper only.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace kadenz::cuda::gemm_unit {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// True in one thread of a whole warp. The compiler knows it of no other condition, and else wraps every copy
// in a loop over the threads that might be there.
__device__ __forceinline__ bool is_elected() {
  uint32_t elected = 0;
  asm volatile("{\n.reg .pred one;\nelect.sync _|one, 0xFFFFFFFF;\nselp.u32 %0, 1, 0, one;\n}"
               : "=r"(elected));
  return elected != 0;
}

__device__ __forceinline__ void init_barrier(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised barriers known to the copy engine and to the other blocks of the cluster.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void expect_bytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// The same place in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ uint32_t address_in(uint32_t address, uint32_t rank) {
  uint32_t remote = 0;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
// What is handed over is a place that the matrix units have read to the end: no write of this thread has to
// be seen, so that no wider scope (which would empty the L1 and wait for all of the thread's memory accesses)
// is asked for; nor is it in wait_for().
__device__ __forceinline__ void arrive_in_cluster(uint32_t remote_barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier) : "memory");
}
__device__ __forceinline__ void wait_for(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ready;\n"
      "bra again;\n"
      "ready:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// After publish_barriers(), which orders what the other blocks must see.
__device__ __forceinline__ void sync_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// A tile to the same place in every block of `mask`, counted at the barrier of each; 0: to this block alone.
__device__ __forceinline__ void copy_tile(uint32_t target, const CUtensorMap* map, uint32_t barrier,
                                          uint16_t mask, uint32_t first, uint32_t second) {
  if (mask == 0) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
        "[%2];" ::"r"(target),
        "l"(map), "r"(barrier), "r"(first), "r"(second)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(target),
        "l"(map), "r"(barrier), "h"(mask), "r"(first), "r"(second)
        : "memory");
  }
}
__device__ __forceinline__ void copy_tile(uint32_t target, const CUtensorMap* map, uint32_t barrier,
                                          uint16_t mask, uint32_t first, uint32_t second, uint32_t third) {
  if (mask == 0) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
        "%5}],"
        " [%2];" ::"r"(target),
        "l"(map), "r"(barrier), "r"(first), "r"(second), "r"(third)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%4, %5, %6}], [%2], %3;" ::"r"(target),
        "l"(map), "r"(barrier), "h"(mask), "r"(first), "r"(second), "r"(third)
        : "memory");
  }
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

}  // namespace kadenz::cuda::gemm_unit
