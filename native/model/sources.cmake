# The decoder. Include from a CMakeLists.txt whose include path holds native/; sets KADENZ_MODEL_SOURCES.
set(KADENZ_MODEL_SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/batch_check.cc
  ${CMAKE_CURRENT_LIST_DIR}/decoder.cc
  ${CMAKE_CURRENT_LIST_DIR}/exact_math.cc
  ${CMAKE_CURRENT_LIST_DIR}/model_config.cc
  ${CMAKE_CURRENT_LIST_DIR}/rope.cc
  ${CMAKE_CURRENT_LIST_DIR}/weights.cc)
# a * b + c stays two roundings unless the source says fma: the compiler's choice must not reach the bits.
set_source_files_properties(${KADENZ_MODEL_SOURCES} PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")
