package strictr2

import (
	"encoding/xml"
	"fmt"
	"net/http"
)

// problem is an error answer as R2 gives it.
type problem struct {
	status  int
	code    string
	message string
}

func notImplemented(header, value string) *problem {
	return &problem{http.StatusNotImplemented, "NotImplemented",
		fmt.Sprintf("Header '%s' with value '%s' not implemented", header, value)}
}

func (e *problem) write(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(e.status)
	if r.Method == http.MethodHead {
		return
	}
	text, err := xml.Marshal(struct {
		XMLName struct{} `xml:"Error"`
		Code    string
		Message string
	}{Code: e.code, Message: e.message})
	if err == nil {
		_, err = w.Write(append([]byte(xml.Header), text...))
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}
