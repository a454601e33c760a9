// Answers a prompt with a variant: answer FOLDER PROMPT [TOKENS]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>

#include "ort_genai.h"

namespace {

// A text as a string of JSON.
std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const unsigned char c : text) {
    char escape[7];
    std::snprintf(escape, sizeof escape, "\\u%04x", c);
    json += c < 0x20 || c == '"' || c == '\\' ? escape : std::string(1, static_cast<char>(c));
  }
  return json + "\"";
}

// The prompt as a user's turn, if the variant has a chat template.
std::string in_turn(const OgaTokenizer& tokenizer, const std::string& folder, const std::string& prompt) {
  std::ifstream file(folder + "/tokenizer_config.json");
  const std::string config((std::istreambuf_iterator<char>(file)), {});
  if (config.find("\"chat_template\"") == std::string::npos && !std::ifstream(folder + "/chat_template.jinja"))
    return prompt;
  const std::string messages = "[{\"role\": \"user\", \"content\": " + quoted(prompt) + "}]";
  return static_cast<const char*>(tokenizer.ApplyChatTemplate(nullptr, messages.c_str(), nullptr, true));
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s FOLDER PROMPT [TOKENS]\n", words[0]);
    return 2;
  }
  OgaHandle handle;  // ends the library when main returns
  try {
    const auto start = std::chrono::steady_clock::now();
    const auto model = OgaModel::Create(words[1]);
    const auto tokenizer = OgaTokenizer::Create(*model);
    const auto sequences = OgaSequences::Create();
    tokenizer->Encode(in_turn(*tokenizer, words[1], words[2]).c_str(), *sequences);

    const auto params = OgaGeneratorParams::Create(*model);
    const int tokens = count > 3 ? std::atoi(words[3]) : 64;
    params->SetSearchOption("max_length", static_cast<double>(sequences->SequenceCount(0)) + tokens);
    const auto generator = OgaGenerator::Create(*model, *params);
    generator->AppendTokenSequences(*sequences);

    const auto stream = OgaTokenizerStream::Create(*tokenizer);
    std::chrono::duration<double> first{};
    while (!generator->IsDone()) {
      generator->GenerateNextToken();
      if (first.count() == 0) first = std::chrono::steady_clock::now() - start;
      const size_t last = generator->GetSequenceCount(0) - 1;
      std::fputs(stream->Decode(generator->GetSequenceData(0)[last]), stdout);
      std::fflush(stdout);
    }
    std::printf("\n");
    std::fprintf(stderr, "first token after %.2f s\n", first.count());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
