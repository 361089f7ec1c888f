package archtest

const module = "joist"

// Budget is an aim and a limit.
type Budget struct{ Warn, Fail int }

// The budgets.
var (
	fileLines        = Budget{400, 800}
	mainLines        = Budget{60, 60}
	funcLines        = Budget{50, 100}
	interfaceMethods = Budget{5, 8}
)

// mayImport is, for each folder at the top, which trees of the others it may
// import. Its own tree and internal are always allowed; nothing else is.
var mayImport = map[string][]string{
	"api":        {},
	"internal":   {},
	"rootfs":     {},
	"image":      {"rootfs/tree", "rootfs/lock"},
	"installer":  {"image", "api", "rootfs/tree"}, // docs/design-imports.md says why
	"iso":        {"image", "rootfs", "installer/answer"},
	"system":     {"image/disk", "image/boot", "image/verity", "image/bundle", "api"}, // docs/design-imports.md says why
	"cluster":    {"api"},
	"hypervisor": {"cluster", "system", "installer/preflight", "image/disk", "image/boot", "rootfs", "api"},
	"cmd":        {"api", "rootfs", "image", "iso", "installer", "system", "hypervisor", "cluster"},
	"test":       {"api", "rootfs", "image", "iso", "installer", "system", "hypervisor", "cluster"},
}

// mayExec is where external programs are started; test is the harness and
// never part of a product.
var mayExec = []string{"internal/run", "rootfs/sandbox", "system/pid1", "hypervisor/guest/*", "test"}

// drivers touch the machine and stand behind an interface of the folder above.
var drivers = []string{
	"hypervisor/guest/kvm", "hypervisor/guest/lxc",
	"hypervisor/storage/dir", "hypervisor/storage/lvmthin", "hypervisor/storage/zfs",
}

// chooseDrivers may import them.
var chooseDrivers = []string{"cmd/joistd", "cmd/joist-lxc", "test"}

// pure are folders of values and rules.
var pure = []string{
	"api/guest", "api/node", "api/schema", "installer/answer", "installer/plan",
	"image/disk", "image/boot", "rootfs/tree", "rootfs/lock", "cluster/place", "cluster/ha", "internal/finding", "internal/progress",
}

// forbiddenNames say nothing about a package.
var forbiddenNames = []string{"util", "utils", "common", "helper", "helpers", "types", "manager", "misc"}
