# The tests of the decoder and the CPU kernels; sets KADENZ_NATIVE_TEST_SOURCES. Their folder must be on the include path.
file(GLOB KADENZ_NATIVE_TEST_SOURCES CONFIGURE_DEPENDS
  ${CMAKE_CURRENT_LIST_DIR}/main.cc ${CMAKE_CURRENT_LIST_DIR}/tiny_model.cc ${CMAKE_CURRENT_LIST_DIR}/*_test.cc)
set_source_files_properties(${KADENZ_NATIVE_TEST_SOURCES} PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")
