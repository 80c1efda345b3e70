package caddymodule

import "github.com/stevedores-org/nix-cache/caddymodule/auth"

// TokenConfig is a token: who presents its secret, as Bearer or as the
// password of Basic, has its rights.
type TokenConfig struct {
	// The name it has in the logs.
	Name Value `json:"name,omitempty"`

	// The secret, or sha256: and the hexadecimal SHA-256 of it.
	Secret Value `json:"secret,omitempty"`

	// Of: read, upload, delete.
	Rights []string `json:"rights,omitempty"`
}

func (h *Handler) resolveAuthorities(v *values) auth.Authorities {
	tokens := h.resolveTokens(v)
	all := auth.Authorities{tokens}
	if file := h.resolveTokenFile(v, tokens); file != nil {
		all = append(all, file)
	}
	return all
}

func (h *Handler) resolveTokenFile(v *values, tokens *auth.Tokens) *auth.File {
	path := v.text("token_file", h.TokenFile, "")
	if v.err != nil {
		return nil
	}
	if path == "" {
		if h.TokenFile != "" {
			h.log.Warn("token_file without a path lets nobody in")
		}
		return nil
	}
	file, err := auth.OpenFile(path, tokens, h.log)
	v.fail("token_file", err)
	return file
}

func (h *Handler) resolveTokens(v *values) *auth.Tokens {
	tokens := new(auth.Tokens)
	all := append([]TokenConfig{{Name: "upload", Secret: h.UploadToken, Rights: []string{"upload"}}}, h.Tokens...)
	for i, t := range all {
		setting := "token"
		if i == 0 {
			setting = "upload_token"
		}
		name := v.text(setting, t.Name, "")
		if i > 0 {
			setting += " " + name
		}
		secret := v.text(setting, t.Secret, "")
		if i == 0 && secret == "" {
			continue // it is not set
		}
		rights, err := auth.ParseRights(t.Rights)
		if err != nil {
			v.fail(setting, err)
			continue
		}
		if secret == "" {
			h.log.Warn("a token without a secret lets nobody in", "token", name)
			continue
		}
		hash, err := auth.ParseSecret(secret)
		if err == nil {
			err = tokens.Add(auth.Token{Name: name, Rights: rights}, hash)
		}
		v.fail(setting, err)
	}
	return tokens
}
