// Package schema is the declaration of the API: one Method value per verb and
// path says what it takes, who may call it and what it is for. Routing,
// validation, permission checks, error texts and documentation all come from
// this one declaration.
package schema

// Type of a parameter's value on the wire.
type Type int

const (
	String  Type = iota
	Integer      // decimal, as number or string
	Number       // decimal with fraction
	Boolean      // 1 or 0
	Array        // repeated key, or one scalar
)

func (t Type) String() string {
	return [...]string{"string", "integer", "number", "boolean", "array"}[t]
}

// Param declares one parameter. A name that ends in "[n]" stands for an
// indexed family: "net[n]" with Count 32 is net0 … net31.
type Param struct {
	Name     string
	Type     Type
	Optional bool
	Enum     []string
	Min, Max *float64 // Integer and Number
	MaxLen   int      // String, 0 = no limit of its own
	Pattern  string   // anchored regular expression a String must match
	Format   string   // name of a value format in Formats ("pve-node", "pve-vmid", "pve-storage-id" …)
	List     bool     // a String that holds a list ("-list" formats): split on , ; and white space, or given as array
	Count    int      // size of an indexed family
	Text     string   // what it means, with its unit
}

// Perm is a permission expression. The zero Perm lets any authenticated user
// in; each handler that returns lists filters them.
type Perm struct {
	World bool     // no authentication needed
	Root  bool     // root@pam with a ticket only
	Path  string   // "/vms/{vmid}", path parameters filled in
	Privs []string // needed on Path
	Any   bool     // one of Privs is enough
	And   []Perm   // all of these too
	Or    []Perm   // or one of these instead
}

// Method declares one verb on one path.
type Method struct {
	Verb     string  // GET, POST, PUT, DELETE
	Path     string  // "/nodes/{node}/qemu/{vmid}/status/start"; a last "{name...}" takes the rest
	Text     string  // what it does, one sentence
	Params   []Param // with those of the path
	Perm     Perm
	NoToken  bool // refuses API tokens
	OnNode   bool // concerns the node in {node} and is passed on to it
	NoQuorum bool // a change that is allowed although the cluster cannot decide
	Upload   bool // multipart body that the handler reads itself; no CSRF token needed
	Raw      bool // the handler writes the answer itself (WebSocket)
}

// F returns a pointer for Min and Max.
func F(v float64) *float64 { return &v }
