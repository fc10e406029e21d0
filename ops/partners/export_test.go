package partners

// BreakGateway makes every further write of the gateway's ledger fail.
func (s *Server) BreakGateway() { s.gateway.file.Close() }
