package guest

// AgentError is the answer of the agent inside a guest to a command that it
// did not carry out.
type AgentError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *AgentError) Error() string { return "Agent error: " + e.Desc }
