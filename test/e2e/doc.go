// Package e2e tests the product as it is delivered: the image in build/ boots
// in virtual machines, installs itself and is used over the network. Tests
// named TestShort… run in `make test`, all of them in `make e2e`.
//
// One installed disk is made per image and kept in build/test-cache/; tests
// work on overlays of it. JOIST_ISO names another image, JOIST_TEST_ACCEL=tcg
// or kvm decides how machines run.
package e2e
