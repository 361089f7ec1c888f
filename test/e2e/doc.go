// Package e2e tests the product as it is delivered: the image in build/ boots
// in virtual machines, installs itself and is used over the network. Tests
// named TestShort… run in `make test`, all of them in `make e2e`.
//
//	go test ./test/e2e -v -run 'TestShortSpine/(container|reboot)$'
//
// One installed disk is made per image and kept in build/test-cache/; tests
// work on overlays of it. What a failed test leaves behind (consoles, pictures
// of screens) is in build/test-logs/<test>/.
//
// Variables: JOIST_ISO and JOIST_TEMPLATE name another image and another
// container template than the newest in build/; JOIST_TEST_ACCEL=tcg or kvm
// decides how machines run; JOIST_CUTS and JOIST_CUT_SEED are the number and the
// draw of TestPowerCut's power cuts; JOIST_NEED_TOOLS=1 makes a missing tool a failure.
package e2e
