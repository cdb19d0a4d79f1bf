# SPDX-License-Identifier: Apache-2.0
# What makes `mount -t weightfs`, lines in /etc/fstab and weightfs@NAME.service work.  mount(8) looks for helpers in
# /sbin only, so packages install below /usr; anywhere else both names must be linked there.
install(TARGETS mount.weightfs RUNTIME DESTINATION ${CMAKE_INSTALL_SBINDIR})
# By the type that /proc/mounts shows it is found too; otherwise mount.fuse would run it through a shell.
file(CREATE_LINK mount.weightfs ${CMAKE_BINARY_DIR}/mount.fuse.weightfs SYMBOLIC)
install(FILES ${CMAKE_BINARY_DIR}/mount.fuse.weightfs DESTINATION ${CMAKE_INSTALL_SBINDIR})
install(FILES docs/mount.weightfs.8 DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)

# Not below CMAKE_INSTALL_LIBDIR, which has the architecture in its name on Debian.
configure_file(systemd/weightfs@.service.in ${CMAKE_BINARY_DIR}/weightfs@.service @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/weightfs@.service DESTINATION lib/systemd/system)
